"""A run as a TOML file: read strictly, refused in one message, built, compared. The only importer of pydantic.

    from meanfield import config

    described = config.load("run.toml")
    built = config.build(described)
    run = built.function(built.network, built.problem, built.start, masses=built.masses, **built.arguments)

Every field, with its bounds and default: docs/config. `import meanfield` does not load this module.
"""

from .building import Built, arguments, build, flow_times
from .examples import EXAMPLES, example
from .reading import altered, from_json, load, override, parse, read
from .sections import RunConfig
from .writing import differences, digest, json_schema, table, to_json, to_toml

__all__ = [
    "EXAMPLES",
    "Built",
    "RunConfig",
    "altered",
    "arguments",
    "build",
    "differences",
    "digest",
    "example",
    "flow_times",
    "from_json",
    "json_schema",
    "load",
    "override",
    "parse",
    "read",
    "table",
    "to_json",
    "to_toml",
]
