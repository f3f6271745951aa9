"""A run as a TOML file: read strictly, refused in one message, built, compared. The only importer of pydantic."""
from .sections import RunConfig
from .reading import load, parse, override, from_json
from .writing import to_json, digest, differences, json_schema, table
