"""Calls over many ranks against what others do, on processes of this machine: what is sent, held, and how long."""
