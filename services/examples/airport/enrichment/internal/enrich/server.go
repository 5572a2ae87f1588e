// Package enrich implements airport.v1.EnrichmentService.
package enrich

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"plait.dev/airport/enrichment/internal/lookup"
	airportv1 "plait.dev/plait/gen/airport/v1"
)

// requestsMax is how many requests one batch has under way at once.
const requestsMax = 16

// Server adds aircraft and weather to flights.
type Server struct {
	airportv1.UnimplementedEnrichmentServiceServer

	reference *lookup.Client
}

// NewServer looks things up with the client given.
func NewServer(reference *lookup.Client) *Server {
	return &Server{reference: reference}
}

// EnrichFlights answers the flights with what the reference service knows of them. It fails with UNAVAILABLE when the
// service did for any of them; what was found by then is remembered, so the next attempt has less to ask.
func (s *Server) EnrichFlights(
	ctx context.Context, request *airportv1.EnrichFlightsRequest,
) (*airportv1.EnrichFlightsResponse, error) {
	flights := request.GetFlights()
	var (
		group   sync.WaitGroup
		lookups atomic.Int32
		slots   = make(chan struct{}, requestsMax)
		errs    = make([]error, len(flights))
	)
	for i, flight := range flights {
		group.Add(1)
		slots <- struct{}{}
		go func() {
			defer func() { <-slots; group.Done() }()
			asked, err := s.enrich(ctx, flight)
			lookups.Add(asked)
			errs[i] = err
		}()
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, toStatus(ctx, err)
	}
	return &airportv1.EnrichFlightsResponse{Flights: flights, Lookups: lookups.Load()}, nil
}

// enrich fills one flight and says how many requests that took.
func (s *Server) enrich(ctx context.Context, flight *airportv1.Flight) (int32, error) {
	var requests int32
	if tail := flight.GetTailNumber(); tail != "" {
		plane, asked, err := s.reference.Plane(ctx, tail)
		if asked {
			requests++
		}
		if err != nil {
			return requests, err
		}
		if plane != nil {
			flight.Aircraft = &airportv1.Aircraft{Seats: plane.Seats, Engines: plane.Engines, Engine: plane.Engine}
		}
	}
	hour, asked, err := s.reference.Hour(ctx, flight.GetOrigin(), flight.GetTimeHour())
	if asked {
		requests++
	}
	if err == nil && hour != nil {
		flight.Weather = &airportv1.Weather{
			VisibilityCentimiles:     hour.Visibility,
			WindCentimph:             hour.Wind,
			PrecipitationCentiinches: hour.Precipitation,
		}
	}
	return requests, err
}

func toStatus(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return status.FromContextError(ctx.Err()).Err()
	case errors.Is(err, lookup.ErrUnavailable):
		return status.Error(codes.Unavailable, firstLine(err))
	default:
		return status.Error(codes.Internal, firstLine(err))
	}
}

// firstLine is enough of many joined errors.
func firstLine(err error) string {
	text := err.Error()
	for i, r := range text {
		if r == '\n' {
			return text[:i]
		}
	}
	return text
}
