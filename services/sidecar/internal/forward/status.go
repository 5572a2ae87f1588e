package forward

import (
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// detailsKey is the trailer in which gRPC carries a google.rpc.Status.
const detailsKey = "grpc-status-details-bin"

// Bare is the error without its details where the trailer has them, so that they are passed on as
// they came and not as this program would write them.
func Bare(err error, trailer metadata.MD) error {
	if len(trailer.Get(detailsKey)) == 0 {
		return err
	}
	st := status.Convert(err)
	return status.Error(st.Code(), st.Message())
}
