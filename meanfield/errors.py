"""What can go wrong, as types: one for bad input, one for each way a computation can fail.

Every message says what was given, what was needed and what to do.
"""


class InputError(ValueError):
    """Something handed to a public function cannot be used: what was given, what was needed, what to do."""


class DivergenceError(ArithmeticError):
    """The flow left the finite numbers.

    Attributes
    ----------
    step : int
        Number of the step that failed, counted from 1.
    time : float
        Flow time of the last good state.
    state : numpy.ndarray
        Particles of the last good state, (N, 1 + d).
    """

    def __init__(self, message, *, step, time, state):
        super().__init__(message)
        self.step, self.time, self.state = step, time, state


class StepLimitError(RuntimeError):
    """The step budget was spent before the last requested time."""


class ConvergenceError(RuntimeError):
    """An iterative method stopped short of the accuracy it promises."""


class KernelError(ConvergenceError):
    """A kernel is singular or indefinite where that cannot be.

    Attributes
    ----------
    rank : int
        Number of eigenvalues above rounding, of P^(1/2) K P^(1/2).
    condition : float
        Largest over smallest eigenvalue in absolute value; infinite if that is 0.
    """

    def __init__(self, message, *, rank, condition):
        super().__init__(message)
        self.rank, self.condition = rank, condition


class DeviceError(RuntimeError):
    """There is no device to compute on, or a package for it is missing: which, and what to do."""


class DeviceMemoryError(MemoryError):
    """The device has no room for what a computation needs."""


class FormatError(InputError):
    """A file is not what it says: damaged, cut off, of another schema, or made to harm. Nothing of it is used."""


class FileError(OSError):
    """A file could not be written: no room, no permission, or it has gone. What was written before is there."""
