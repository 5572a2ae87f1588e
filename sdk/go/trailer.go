package plait

import (
	"errors"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	plaitv1 "plait.dev/plait/gen/plait/v1"
)

// Trailer is the error metadata that a handler set, from an error of a durable call, a bulk call or
// [Task.Result], anywhere in err's chain; nil for any other error. For a call, grpc.Trailer gives
// the same.
func Trailer(err error) metadata.MD {
	var failed *handlerError
	if !errors.As(err, &failed) {
		return nil
	}
	return failed.trailer.Copy()
}

// handlerError is a handler's status together with its trailer, which a status alone cannot hold.
type handlerError struct {
	status  *status.Status
	trailer metadata.MD
}

// withTrailer makes the error that a gRPC call would have given for a failure of a handler.
func withTrailer(f *plaitv1.Failure) error {
	err := failureError(f)
	trailer := trailerOf(f)
	if len(trailer) == 0 {
		return err
	}
	return &handlerError{status: status.Convert(err), trailer: trailer}
}

func (e *handlerError) Error() string { return e.status.Err().Error() }

// GRPCStatus is what package status reads.
func (e *handlerError) GRPCStatus() *status.Status { return e.status }

// Is compares as an error of package status does.
func (e *handlerError) Is(target error) bool { return errors.Is(e.status.Err(), target) }
