"""What people run: the environments, the local stack, deployments and the demonstration."""

from pathlib import Path

__all__ = ["LOCAL", "ROOT", "ToolError"]

ROOT = Path(__file__).resolve().parent.parent
LOCAL = ROOT / ".local"  # everything the tools make, but the main environment


class ToolError(Exception):
    """A tool cannot go on; the message says why and what to do next."""
