module plait.dev/interop/drivers/go

go 1.26.0

require (
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260928230214-8a89bd6388cc
	google.golang.org/grpc v1.85.0
	google.golang.org/protobuf v1.36.12
	plait.dev/plait v0.0.0-00010101000000-000000000000
)

replace plait.dev/plait => ../../../sdk/go
