package enrich_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"plait.dev/airport/enrichment/internal/enrich"
	"plait.dev/airport/enrichment/internal/lookup"
	"plait.dev/airport/enrichment/internal/reference"
	airportv1 "plait.dev/plait/gen/airport/v1"
)

const (
	planes  = "tailnum,year,seats,engines,engine\nN1,1999,149,2,Turbo-fan\n"
	weather = "origin,time_hour,visib,wind_speed,precip\n" +
		"EWR,2013-01-01T10:00:00Z,0.06,10.357019999999999,NA\n" +
		"EWR,2013-01-01T10:00:00Z,9,9,9\n"
)

func register(t *testing.T) *reference.Register {
	t.Helper()
	folder := t.TempDir()
	for name, text := range map[string]string{"planes.csv": planes, "weather.csv": weather} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	loaded, err := reference.Load(folder)
	if err != nil {
		t.Fatal(err)
	}
	return loaded
}

func flights() *airportv1.EnrichFlightsRequest {
	const hour = "2013-01-01T10:00:00Z"
	return &airportv1.EnrichFlightsRequest{Flights: []*airportv1.Flight{
		{Row: 1, TailNumber: "N1", Origin: "EWR", TimeHour: hour},
		{Row: 2, TailNumber: "N2", Origin: "LGA", TimeHour: hour},
		{Row: 3, Origin: "EWR", TimeHour: hour},
	}}
}

func TestEnrichFlights_FillsWhatIsKnownAndKeepsTheOrder(t *testing.T) {
	t.Parallel()
	service := httptest.NewServer(reference.NewHandler(register(t), reference.Faults{}))
	defer service.Close()
	server := enrich.NewServer(lookup.NewClient(service.URL, service.Client()))

	response, err := server.EnrichFlights(t.Context(), flights())
	if err != nil {
		t.Fatal(err)
	}
	got := response.GetFlights()
	want := &airportv1.Aircraft{Seats: 149, Engines: 2, Engine: "Turbo-fan"}
	if !proto.Equal(got[0].GetAircraft(), want) {
		t.Errorf("aircraft of a known tail number: got %v, want %v", got[0].GetAircraft(), want)
	}
	observed := &airportv1.Weather{VisibilityCentimiles: 6, WindCentimph: 1036, PrecipitationCentiinches: -1}
	if w := got[0].GetWeather(); !proto.Equal(w, observed) {
		t.Errorf("weather of the first observation, in hundredths: got %v", w)
	}
	if got[1].GetRow() != 2 || got[1].GetAircraft() != nil || got[1].GetWeather() != nil {
		t.Errorf("a flight that nothing is known of stays as it is: got %v", got[1])
	}
	if got[2].GetAircraft() != nil || got[2].GetWeather() == nil {
		t.Errorf("a flight without tail number has weather only: got %v", got[2])
	}

	again, err := server.EnrichFlights(t.Context(), flights())
	if err != nil || again.GetLookups() != 0 {
		t.Errorf("the second time nothing is asked: got %d requests, error %v", again.GetLookups(), err)
	}
}

func TestEnrichFlights_FailsWithUnavailableAndRemembersWhatItFound(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	broken.Store(true)
	good := reference.NewHandler(register(t), reference.Faults{})
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if broken.Load() && r.URL.Path == "/v1/planes/N2" {
			http.Error(w, "busy", http.StatusServiceUnavailable)
			return
		}
		good.ServeHTTP(w, r)
	}))
	defer service.Close()
	server := enrich.NewServer(lookup.NewClient(service.URL, service.Client()))

	if _, err := server.EnrichFlights(t.Context(), flights()); status.Code(err) != codes.Unavailable {
		t.Fatalf("got %v, want UNAVAILABLE", err)
	}
	broken.Store(false)
	response, err := server.EnrichFlights(t.Context(), flights())
	if err != nil {
		t.Fatal(err)
	}
	if response.GetLookups() > 2 {
		t.Errorf("%d requests the second time; only N2 and its weather were missing", response.GetLookups())
	}
}

func TestEnrichFlights_SlowServiceEndsWithTheCallersDeadline(t *testing.T) {
	t.Parallel()
	started := make(chan struct{}, 8)
	service := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		started <- struct{}{}
		<-r.Context().Done()
	}))
	defer service.Close()
	server := enrich.NewServer(lookup.NewClient(service.URL, service.Client()))
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-started; cancel() }()
	if _, err := server.EnrichFlights(ctx, flights()); status.Code(err) != codes.Canceled {
		t.Fatalf("got %v, want CANCELLED", err)
	}
}
