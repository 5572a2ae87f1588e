// Package lookup asks the reference service, and remembers what it answered: aircraft and past weather do not change.
package lookup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
)

// ErrUnavailable means that asking again later may help.
var ErrUnavailable = errors.New("the reference service is unavailable")

// Plane is an aircraft of the register.
type Plane struct {
	Seats   int32  `json:"seats"`
	Engines int32  `json:"engines"`
	Engine  string `json:"engine"`
}

// Hour is the weather of an hour: hundredths of a mile, of a mile an hour, of an inch; -1 where it was not measured.
type Hour struct {
	Visibility    int32 `json:"visibility"`
	Wind          int32 `json:"wind"`
	Precipitation int32 `json:"precipitation"`
}

// Client looks things up. It is safe for use by many goroutines.
type Client struct {
	base   string
	http   *http.Client
	planes cache[Plane]
	hours  cache[Hour]
}

// NewClient asks the service at base, such as "http://127.0.0.1:7480".
func NewClient(base string, client *http.Client) *Client {
	return &Client{base: base, http: client}
}

// Plane finds an aircraft; nil if it is not in the register. asked tells whether the service was asked.
func (c *Client) Plane(ctx context.Context, tail string) (plane *Plane, asked bool, err error) {
	return c.planes.get(tail, func() (*Plane, error) {
		return fetch[Plane](ctx, c, "/v1/planes/"+url.PathEscape(tail))
	})
}

// Hour finds the weather of an hour at an airport; nil if it was not observed.
func (c *Client) Hour(ctx context.Context, origin, hour string) (weather *Hour, asked bool, err error) {
	return c.hours.get(origin+"/"+hour, func() (*Hour, error) {
		return fetch[Hour](ctx, c, "/v1/weather/"+url.PathEscape(origin)+"/"+url.PathEscape(hour))
	})
}

// answerBytesMax bounds what is read of an answer.
const answerBytesMax = 4096

func fetch[T any](ctx context.Context, c *Client, path string) (*T, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, answerBytesMax))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	switch {
	case response.StatusCode == http.StatusNotFound:
		return nil, nil //nolint:nilnil // not being there is an answer
	case response.StatusCode >= http.StatusInternalServerError:
		return nil, fmt.Errorf("%w: %s answered %s", ErrUnavailable, path, response.Status)
	case response.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s answered %s", path, response.Status)
	}
	value := new(T)
	if err := json.Unmarshal(body, value); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return value, nil
}

// cacheEntriesMax bounds a cache; a full one forgets everything, which costs requests and nothing else.
const cacheEntriesMax = 50_000

// cache remembers answers, absent ones included. Two that ask for the same at once may both ask the service.
type cache[T any] struct {
	mu      sync.RWMutex
	entries map[string]*T
}

func (c *cache[T]) get(key string, fetch func() (*T, error)) (value *T, asked bool, err error) {
	c.mu.RLock()
	value, found := c.entries[key]
	c.mu.RUnlock()
	if found {
		return value, false, nil
	}
	value, err = fetch()
	if err != nil {
		return nil, true, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries == nil || len(c.entries) >= cacheEntriesMax {
		c.entries = make(map[string]*T)
	}
	c.entries[key] = value
	return value, true, nil
}
