"""The control plane of direct calls: xDS v3 for gRPC's own clients, and their load reports."""
