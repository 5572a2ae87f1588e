// Package settings reads what the sidecar is told: flag over environment over default. It opens
// nothing.
package settings

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

const (
	prefix = "PLAIT_SIDECAR_"
	// addressEnv is shared with every other client of the broker.
	addressEnv = "PLAIT_ADDRESS"
	// concurrencyMax bounds a slip of the finger, not a need.
	concurrencyMax = 100_000
)

// Settings are those of one sidecar.
type Settings struct {
	// The plain gRPC server: host:port, unix:/path, or a gRPC target. Required.
	Target string
	// Where the broker listens. Default 127.0.0.1:7420.
	Address string
	// Full names of the services that are served. Default: all of the server but grpc.*.
	Services []string
	// A serialized FileDescriptorSet with its imports. Default "": server reflection.
	Descriptors string
	// A YAML overlay of policies. Default "": those of the descriptors.
	Policies string
	// Calls to the server at once. Default 256; at least 1.
	Concurrency int
	// Where plain unary calls are taken and made durable. Default "": nowhere.
	Listen string
	// Names the worker for people. Default "sidecar".
	Name string
	// Version of the server behind it, as rollouts know it. Default "".
	Version string
	// How long calls that run are waited for after SIGTERM. Default 30s.
	Grace time.Duration
}

// names is a flag that may be repeated, or hold several names with commas between them.
type names []string

func (n *names) String() string { return strings.Join(*n, ",") }

func (n *names) Set(text string) error {
	for name := range strings.SplitSeq(text, ",") {
		if name = strings.TrimSpace(name); name != "" {
			*n = append(*n, name)
		}
	}
	return nil
}

// Parse reads flags and, for those that are not given, the environment. Its error names what is
// wrong; flag.ErrHelp when help was asked for, which went to out.
func Parse(args []string, getenv func(string) string, out io.Writer) (Settings, error) {
	var s Settings
	flags := flag.NewFlagSet("plait-sidecar", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.StringVar(&s.Target, "target", "", "the plain gRPC server, such as 127.0.0.1:50051")
	flags.StringVar(&s.Address, "address", "127.0.0.1:7420", "the broker ("+addressEnv+")")
	services := (*names)(&s.Services)
	flags.Var(services, "service", "full name of a service to serve; repeatable (default all but grpc.*)")
	flags.StringVar(&s.Descriptors, "descriptors", "",
		"a serialized FileDescriptorSet with imports (default: server reflection)")
	flags.StringVar(&s.Policies, "policies", "", "a YAML overlay of policies")
	flags.IntVar(&s.Concurrency, "concurrency", 256, "calls to the server at once")
	flags.StringVar(&s.Listen, "listen", "", "take plain unary calls here and make them durable")
	flags.StringVar(&s.Name, "name", "sidecar", "names the worker for people")
	flags.StringVar(&s.Version, "worker-version", "", "version of the server, for rollouts")
	flags.DurationVar(&s.Grace, "grace", 30*time.Second, "how long a drain waits for calls")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	if flags.NArg() > 0 {
		return s, fmt.Errorf("%q is no flag", flags.Arg(0))
	}
	if err := environment(flags, getenv); err != nil {
		return s, err
	}
	return s, s.check()
}

// environment sets the flags that were not given from their variables.
func environment(flags *flag.FlagSet, getenv func(string) string) error {
	given := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	var problems []error
	flags.VisitAll(func(f *flag.Flag) {
		variable := prefix + strings.ToUpper(f.Name)
		if f.Name == "address" {
			variable = addressEnv
		}
		text := getenv(variable)
		if given[f.Name] || text == "" {
			return
		}
		if err := flags.Set(f.Name, text); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", variable, err))
		}
	})
	return errors.Join(problems...)
}

func (s *Settings) check() error {
	switch {
	case s.Target == "":
		return errors.New("--target is missing: the address of the gRPC server")
	case s.Concurrency < 1 || s.Concurrency > concurrencyMax:
		return fmt.Errorf("--concurrency is %d; it is 1 to %d", s.Concurrency, concurrencyMax)
	case s.Grace < 0:
		return fmt.Errorf("--grace is %s; it is not negative", s.Grace)
	}
	if s.Listen == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(s.Listen)
	if err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	if host == "" {
		// There is no transport security, so nothing is opened to the network by leaving a word out.
		s.Listen = net.JoinHostPort("127.0.0.1", port)
	}
	return nil
}
