"""Every kernel of the CUDA engine once, at small sizes that are no multiples of anything: for compute-sanitizer."""

import numpy as np

from meanfield import engines, losses
from meanfield.activations import ACTIVATIONS
from meanfield.overlaps import OVERLAPS

# (N, n, d), and whether products of matrices are allowed, without which there are the kernels of any dimension.
SHAPES = (((131, 70, 3), True), ((67, 66, 50), False), ((300, 9, 70), True))


def main(shapes=SHAPES, dtypes=("float32", "float64")):
    cuda = engines.find("cuda")
    available = cuda.cuda_gemm.available
    try:
        for shape, products in shapes:
            cuda.cuda_gemm.available = available if products else lambda: False
            for dtype in dtypes:
                every_kernel(cuda, *shape, dtype)
    finally:
        cuda.cuda_gemm.available = available


def every_kernel(cuda, n_particles, n, dim, dtype):
    rng, activation = np.random.default_rng(0), ACTIVATIONS["tanh"]
    cloud, velocity = (cuda.pack(rng.standard_normal((n_particles, 1 + dim)), dtype) for _ in range(2))
    inputs = cuda.pack_inputs(rng.standard_normal((n, dim)), dtype)
    masses = cuda.pack_masses(np.full(n_particles, 1 / n_particles), dtype)
    drive = cuda.pack_drive(np.zeros(n), np.ones(n), np.full(n, 1 / n), dtype)
    pull = cuda.pull(losses.squared, cuda.predict(activation, cloud, masses, inputs), 1.0, drive)
    moved = cuda.vjp(activation, cloud, inputs, pull, (1.0, 1.0))
    cuda.unpack_vector(cuda.vector(cuda.jvp(activation, cloud, velocity, masses, inputs)))
    cuda.pairwise(OVERLAPS[ACTIVATIONS["erf"]], cloud, inputs, np.ones(n), (1.0, 1.0))
    cuda.gram(activation, cloud, masses, inputs)
    after = cuda.combine(cloud, 0.1, (1.0, 0.5), (moved, cuda.noise(cloud, 1, 2)))
    cuda.error_norm(0.1, (1.0,), (moved,), cloud, after, 1e-3, 1e-5)
    assert cuda.is_finite(after)


if __name__ == "__main__":
    main()
