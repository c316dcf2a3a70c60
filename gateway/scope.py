"""What a caller sees: the resources of its projects; others do not exist."""

from services.common.auth import current_caller
from services.common.errors import NotFound, PermissionDenied


def caller_name() -> str:
    """Return who makes the call being served, as the ledger writes it down."""
    caller = current_caller()
    return f"{caller.identity}/{caller.name}"


def see(project: str, resource: str) -> None:
    """Pass a caller that sees the project. Raises NotFound for `resource`: whether it exists is not told."""
    if not current_caller().sees(project):
        raise NotFound(resource)


def enter(project: str) -> None:
    """Pass a caller that may list and create in the project. Raises PermissionDenied."""
    caller = current_caller()
    if not caller.sees(project):
        raise PermissionDenied(caller.identity, f"methods on projects/{project}")


def visible_projects(project: str) -> tuple[str, ...]:
    """Return patterns of the projects meant by `project`, where `-` means all that the caller sees."""
    if project == "-":
        return current_caller().projects
    enter(project)
    return (project,)
