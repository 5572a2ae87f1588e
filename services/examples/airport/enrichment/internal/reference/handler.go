package reference

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"
)

// Faults says how badly the service behaves.
type Faults struct {
	// Latency is added to every answer. Default 0.
	Latency time.Duration
	// FailPermille is the share of requests that get 503. Default 0.
	FailPermille int
}

// Validate refuses faults that mean nothing.
func (f Faults) Validate() error {
	if f.Latency < 0 || f.Latency > time.Minute {
		return errors.New("latency must be from 0 to 1m")
	}
	if f.FailPermille < 0 || f.FailPermille > 1000 {
		return errors.New("fail-permille must be from 0 to 1000")
	}
	return nil
}

// NewHandler serves GET /v1/planes/{tail} and GET /v1/weather/{origin}/{hour} as JSON; 404 for what is not there.
func NewHandler(register *Register, faults Faults) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/planes/{tail}", func(w http.ResponseWriter, r *http.Request) {
		plane, found := register.planes[r.PathValue("tail")]
		answer(w, plane, found)
	})
	mux.HandleFunc("GET /v1/weather/{origin}/{hour}", func(w http.ResponseWriter, r *http.Request) {
		hour, found := register.hours[r.PathValue("origin")+"/"+r.PathValue("hour")]
		answer(w, hour, found)
	})
	return faults.wrap(mux)
}

func (f Faults) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.Latency > 0 {
			timer := time.NewTimer(f.Latency)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-r.Context().Done():
				return
			}
		}
		if rand.IntN(1000) < f.FailPermille {
			http.Error(w, "the register is busy", http.StatusServiceUnavailable)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func answer(w http.ResponseWriter, value any, found bool) {
	if !found {
		http.Error(w, "not in the register", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value) // an error here means that the client is gone
}
