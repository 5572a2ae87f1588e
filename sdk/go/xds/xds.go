// Package xds lets the channels of Client.Direct find workers. Import it for that alone:
//
//	import _ "plait.dev/plait/xds"
//
// It links grpc-go's xDS, which is large, and is why it is not part of the package plait.
package xds

import (
	"google.golang.org/grpc/xds"

	"plait.dev/plait/internal/resolvers"
)

func init() {
	// grpc-go reads a bootstrap from the environment, once and before main. A program may have one
	// of its own there, and several clients, so each channel has its own resolver. The function's
	// name says that it is for tests; nothing else takes a bootstrap.
	resolvers.Set(xds.NewXDSResolverWithConfigForTesting)
}
