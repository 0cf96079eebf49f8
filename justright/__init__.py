"""justright finds the learning rate that is just right for a PyTorch model."""

from justright.errors import JustrightError
from justright.task import Task

__version__ = "0.1.0"

__all__ = ["JustrightError", "Task", "__version__"]
