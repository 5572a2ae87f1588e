module plait.dev/airport/enrichment

go 1.26.0

replace plait.dev/plait => ../../../../sdk/go

require (
	google.golang.org/grpc v1.85.0
	google.golang.org/protobuf v1.36.12
	plait.dev/plait v0.0.0-00010101000000-000000000000
)
