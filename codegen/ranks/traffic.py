"""What messages weigh: elements of a key or a row that travels, forward and backward."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Widths:
    """The sizes of vectors: elements of queries and keys, of values, bytes of an element; and of how many entries.

    ``shared`` says that branches of a mixture have given shares.

    >>> Widths(64, 64, 2).key
    256
    """

    dim: int
    dim_v: int
    itemsize: int
    batch: int = 1
    shared: bool = False

    @property
    def key(self) -> int:
        """Bytes of the key and value of a position, of one key head."""
        return self.batch * (self.dim + self.dim_v) * self.itemsize

    @property
    def query(self) -> int:
        """Bytes of the query of a row, of one head."""
        return self.batch * self.dim * self.itemsize

    @property
    def result(self) -> int:
        """Bytes of what a row gives, of one head: output and log-sum-exp, float32."""
        return self.batch * (self.dim_v + 1) * 4

    @property
    def key_gradient(self) -> int:
        """Bytes of the gradients of the key and value of a position, of one key head, float32."""
        return self.batch * (self.dim + self.dim_v) * 4

    @property
    def query_back(self) -> int:
        """Bytes of a row for which gradients are computed elsewhere, of one head.

        The query and the gradient of its output, in the type of the model, and its log-sum-exp, float32, but where
        branches have shares, and each its own.
        """
        return self.batch * ((self.dim + self.dim_v) * self.itemsize + (0 if self.shared else 4))

    @property
    def result_back(self) -> int:
        """Bytes of what else they come from, of one head and branch: what is taken off, float32.

        Where branches have shares their log-sum-exps and shares too.
        """
        return self.batch * (12 if self.shared else 4)

    @property
    def query_gradient(self) -> int:
        """Bytes of the gradient of a query, of one head, float32."""
        return self.batch * self.dim * 4
