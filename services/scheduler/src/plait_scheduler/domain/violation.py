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
