// Package sidecar puts the parts together and keeps them running.
package sidecar

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/grpc"

	"plait.dev/plait"
	"plait.dev/sidecar/internal/contract"
	"plait.dev/sidecar/internal/forward"
	"plait.dev/sidecar/internal/gate"
	"plait.dev/sidecar/internal/settings"
	"plait.dev/sidecar/internal/target"
)

const (
	name = "sidecar"
	// flush bounds the export of the last spans.
	flush = 5 * time.Second
)

// Run serves until ctx ends, and drains then. It prints one line to stdout when its worker is
// attached; logs go to stderr as JSON. Its error is what it was told wrongly, a contract that was
// refused, or what the drain had to cut off.
func Run(
	ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer,
) (err error) {
	told, err := settings.Parse(args, getenv, stderr)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewJSONHandler(stderr, nil))
	shutdown, err := plait.ConfigureTracing(ctx, name)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flush)
		defer cancel()
		err = errors.Join(err, shutdown(ctx))
	}()
	conn, err := target.Dial(told.Target)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	log.InfoContext(ctx, "looking for the server", "target", told.Target)
	known, err := contract.Load(ctx, conn, contract.Source{
		Descriptors: told.Descriptors, Policies: told.Policies, Services: told.Services,
	})
	if err != nil {
		if ctx.Err() != nil {
			return nil // It was told to go before the server was there.
		}
		return err
	}
	log.InfoContext(ctx, "contract read", "services", known.Names())
	if len(known.LeftOut) > 0 {
		log.WarnContext(ctx, "streaming methods are left out: a task has one request and one response",
			"methods", known.LeftOut)
	}
	return serve(ctx, told, known, conn, log, stdout)
}

// serve runs the worker, and the front if one is wanted, until ctx ends or one of them fails.
func serve(
	ctx context.Context, told settings.Settings, known *contract.Contract, conn *grpc.ClientConn,
	log *slog.Logger, stdout io.Writer,
) error {
	mesh, err := plait.Connect(ctx, plait.WithAddress(told.Address), plait.WithLogger(log),
		plait.WithDescriptors(known))
	if err != nil {
		return err
	}
	defer func() { _ = mesh.Close() }()
	taken := &front{}
	if told.Listen != "" {
		handler := forward.NewFront(mesh.Channel(), known)
		if taken, err = listen(ctx, told.Listen, handler); err != nil {
			return err
		}
	}
	start := time.Now()
	admission := gate.New(plait.DefaultBreakerConfig(), told.Concurrency,
		func() int64 { return time.Since(start).Milliseconds() })
	w := &worker{
		mesh: mesh, contract: known, gate: admission, log: log, name: told.Name,
		version: told.Version,
		slots:   told.Concurrency, server: forward.NewServer(conn, admission, log),
		attached: func() error {
			return ready(stdout, taken.address, known.Names())
		},
	}
	watching, unwatch := context.WithCancel(context.WithoutCancel(ctx))
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		target.Watch(watching, conn, admission.Serving)
	}()
	err = w.run(ctx, told.Grace)
	taken.stop(told.Grace)
	unwatch()
	<-watched
	return err
}

// ready prints the readiness line.
func ready(stdout io.Writer, address string, services []string) error {
	line, err := json.Marshal(struct {
		Event    string   `json:"event"`
		Process  string   `json:"process"`
		Address  string   `json:"address"`
		Services []string `json:"services"`
	}{"ready", name, address, services})
	if err != nil {
		return err
	}
	var text strings.Builder
	text.Write(line)
	text.WriteByte('\n')
	if _, err := io.WriteString(stdout, text.String()); err != nil {
		return fmt.Errorf("print the readiness line: %w", err)
	}
	return nil
}
