package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"

	"plait.dev/plait"
)

const (
	ruinExit = 3
	// eatenAtMost is what a process may take on top of what it has.
	eatenAtMost = 512 << 20
	bite        = 16 << 20
)

// ruin ends the process in the way that a request asks for, if ECHO_RUIN names the file in which each such attempt is
// noted first. Without it, or for another word, it does nothing.
func ruin(ctx context.Context, how string) error {
	path := os.Getenv("ECHO_RUIN")
	end, known := map[string]func() error{"exit": exit, "abort": abort, "eat": eat}[how]
	if path == "" || !known {
		return nil
	}
	file, err := openNotes(path)
	if err != nil {
		return err
	}
	attempt, _ := plait.AttemptFrom(ctx)
	if _, err := fmt.Fprintf(file, "go\t%s\t%s\t%d\n", attempt.TaskID(), how, attempt.Number()); err != nil {
		return err
	}
	return end()
}

func exit() error {
	os.Exit(ruinExit)
	return nil
}

func abort() error {
	if err := syscall.Kill(os.Getpid(), syscall.SIGABRT); err != nil {
		return err
	}
	select {} // The signal ends the process in a moment.
}

// eat takes memory until the limit of the process is reached, and the runtime cannot go on.
func eat() error {
	said, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	var kib uint64
	_, size, _ := strings.Cut(string(said), "VmSize:")
	if _, err := fmt.Sscan(size, &kib); err != nil {
		return err
	}
	limit := kib<<10 + eatenAtMost
	if err := syscall.Setrlimit(syscall.RLIMIT_AS, &syscall.Rlimit{Cur: limit, Max: limit}); err != nil {
		return err
	}
	var eaten [][]byte
	for {
		eaten = append(eaten, bytes.Repeat([]byte{1}, bite))
		runtime.KeepAlive(eaten)
	}
}
