package settings

import (
	"errors"
	"flag"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

func parse(variables map[string]string, args ...string) (Settings, error) {
	return Parse(args, func(name string) string { return variables[name] }, io.Discard)
}

func TestParse_FlagOverEnvironmentOverDefault(t *testing.T) {
	t.Parallel()
	s, err := parse(map[string]string{
		"PLAIT_ADDRESS":             "broker:1",
		"PLAIT_SIDECAR_TARGET":      "other:1",
		"PLAIT_SIDECAR_CONCURRENCY": "7",
		"PLAIT_SIDECAR_SERVICE":     "a.A, b.B",
		"PLAIT_SIDECAR_GRACE":       "1m",
	}, "--target", "server:1", "--name=mine", "--worker-version=2")
	if err != nil {
		t.Fatal(err)
	}
	if s.Target != "server:1" || s.Address != "broker:1" || s.Concurrency != 7 || s.Name != "mine" ||
		s.Version != "2" ||
		s.Grace != time.Minute || !slices.Equal(s.Services, []string{"a.A", "b.B"}) {
		t.Errorf("%+v", s)
	}
	s, err = parse(nil, "--target=x", "--service", "a.A", "--service", "b.B")
	if err != nil {
		t.Fatal(err)
	}
	if s.Address != "127.0.0.1:7420" || s.Concurrency != 256 || s.Name != "sidecar" ||
		s.Listen != "" || s.Grace != 30*time.Second ||
		!slices.Equal(s.Services, []string{"a.A", "b.B"}) {
		t.Errorf("%+v", s)
	}
}

func TestParse_ListensOnTheLoopbackUnlessTold(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		":0": "127.0.0.1:0", "127.0.0.1:9": "127.0.0.1:9", "0.0.0.0:9": "0.0.0.0:9",
	} {
		s, err := parse(nil, "--target=x", "--listen="+given)
		if err != nil || s.Listen != want {
			t.Errorf("%s: %q, %v", given, s.Listen, err)
		}
	}
}

func TestParse_WhatIsWrongIsNamed(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		"--target is missing":    {},
		"--concurrency is 0":     {"--target=x", "--concurrency=0"},
		"--grace is -1s":         {"--target=x", "--grace=-1s"},
		"--listen":               {"--target=x", "--listen=nowhere"},
		`"more" is no flag`:      {"--target=x", "more"},
		"not defined: -unknown":  {"--unknown"},
		"invalid value \"many\"": {"--concurrency=many"},
		"PLAIT_SIDECAR_GRACE: ":  {"--target=y"},
	} {
		variables := map[string]string{}
		if slices.Contains(args, "--target=y") {
			variables["PLAIT_SIDECAR_GRACE"] = "soon"
		}
		_, err := parse(variables, args...)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v; want %q", args, err, want)
		}
	}
	if _, err := parse(nil, "--help"); !errors.Is(err, flag.ErrHelp) {
		t.Error(err)
	}
}
