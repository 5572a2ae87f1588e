// Package resolvers is where the package xds leaves what the package plait finds workers by. So a
// program that makes no direct calls is not linked with xDS, which is 25 MB.
package resolvers

import (
	"sync/atomic"

	"google.golang.org/grpc/resolver"
)

// Maker makes a resolver of the scheme xds that asks the servers of a bootstrap.
type Maker func(bootstrap []byte) (resolver.Builder, error)

var maker atomic.Pointer[Maker]

// Set says how resolvers are made.
func Set(m Maker) { maker.Store(&m) }

// Get is nil while none was set.
func Get() Maker {
	if m := maker.Load(); m != nil {
		return *m
	}
	return nil
}
