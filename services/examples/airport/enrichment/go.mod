module plait.dev/airport/enrichment

go 1.26.0

replace plait.dev/plait => ../../../../sdk/go
