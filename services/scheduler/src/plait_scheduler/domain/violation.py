"""What is wrong with a contract, in words that name file, method and field."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Violation:
    """One reason why a contract's policy cannot hold."""

    # The file that it stands in: "shop/v1/orders.proto".
    file: str
    # The method or service: "shop.v1.OrderService.Charge". "": the file itself.
    subject: str
    # The option's field: "task.retry.max_attempts". "": the subject itself.
    field: str
    # A sentence.
    description: str

    @property
    def path(self) -> str:
        """Where it is."""
        return ": ".join(part for part in (self.file, self.subject, self.field) if part)

    @property
    def text(self) -> str:
        """Where it is and what it is."""
        return f"{self.path}: {self.description}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason why a contract cannot take the place of the one in force."""

    # What kind: REQUEST_TYPE_CHANGED and the like.
    kind: str
    # The method, message or field: "shop.v1.Order.id".
    subject: str
    # A sentence.
    description: str

    @property
    def text(self) -> str:
        """Where it is and what it is."""
        return f"{self.subject}: {self.description}"
