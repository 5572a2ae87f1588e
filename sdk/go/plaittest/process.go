package plaittest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// binEnv names a folder in which binaries are looked for first.
const binEnv = "PLAIT_BIN"

// ErrMissing tells that a binary was not found; its text says where it was looked for.
var ErrMissing = errors.New("a binary of Plait is missing")

// find looks for a binary in the file that a variable names, the folder PLAIT_BIN, folders of the
// checkout that the test runs in (the newest of them counts), and PATH.
func find(name, variable string, folders ...string) (string, error) {
	if named := os.Getenv(variable); named != "" {
		return named, nil
	}
	looked := []string{"$" + variable}
	if folder := os.Getenv(binEnv); folder != "" {
		path := filepath.Join(folder, name)
		if found, err := exec.LookPath(path); err == nil {
			return found, nil
		}
		looked = append(looked, path)
	}
	var newest string
	var built time.Time
	for _, folder := range folders {
		path := filepath.Join(checkout(), filepath.FromSlash(folder), name)
		if info, err := os.Stat(path); err == nil && info.ModTime().After(built) {
			newest, built = path, info.ModTime()
		}
		looked = append(looked, path)
	}
	if newest != "" {
		return newest, nil
	}
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	return "", fmt.Errorf("%w: %s was looked for in %s and PATH",
		ErrMissing, name, strings.Join(looked, ", "))
}

// checkout is the root of the repository that the test runs in; "" outside of one.
func checkout() string {
	folder, err := os.Getwd()
	if err != nil {
		return ""
	}
	for {
		mark := filepath.Join(folder, "services", "broker", "Cargo.toml")
		if _, err := os.Stat(mark); err == nil {
			return folder
		}
		parent := filepath.Dir(folder)
		if parent == folder {
			return ""
		}
		folder = parent
	}
}

// process is a child that said that it is ready.
type process struct {
	command *exec.Cmd
	ended   chan struct{}
}

// start runs a process until kill, and returns where it listens once it is ready. Its readiness
// line on stdout is JSON with event "ready" and an address; everything else it says goes to output.
func start(
	ctx context.Context, output io.Writer, path string, args ...string,
) (*process, string, error) {
	// The process outlives ctx, which bounds its start only.
	life := context.WithoutCancel(ctx)
	command := exec.CommandContext(life, path, args...) //nolint:gosec // find found the path
	command.Stderr = output
	stdout, err := command.StdoutPipe()
	if err != nil {
		return nil, "", fmt.Errorf("start %s: %w", path, err)
	}
	if err := command.Start(); err != nil {
		return nil, "", fmt.Errorf("start %s: %w", path, err)
	}
	p := &process{command: command, ended: make(chan struct{})}
	ready := make(chan string, 1)
	go p.read(stdout, output, ready)
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	select {
	case address := <-ready:
		return p, address, nil
	case <-p.ended:
		return nil, "", fmt.Errorf("start %s: it ended before it was ready", path)
	case <-ctx.Done():
		p.kill()
		return nil, "", fmt.Errorf("start %s: it was not ready in time: %w", path, ctx.Err())
	}
}

func (p *process) read(stdout io.Reader, output io.Writer, ready chan<- string) {
	defer close(p.ended)
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		var line struct{ Event, Address string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Event == "ready" {
			ready <- line.Address
			continue
		}
		_, _ = fmt.Fprintln(output, lines.Text())
	}
	_ = p.command.Wait() // How it ended is in its own log.
}

func (p *process) kill() {
	_ = p.command.Process.Kill() // Its only error is that the process ended already.
	<-p.ended
}
