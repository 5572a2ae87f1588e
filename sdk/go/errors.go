package plait

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"

	plaitv1 "plait.dev/plait/gen/plait/v1"
)

const (
	errorDomain  = "plait"
	reasonPrefix = "ERROR_REASON_"
	// codeMax is the highest gRPC code, UNAUTHENTICATED.
	codeMax = uint32(codes.Unauthenticated)
	// detailsKey is the trailer in which gRPC carries a google.rpc.Status.
	detailsKey = "grpc-status-details-bin"
)

// Reason says why Plait itself refused, read from the google.rpc.ErrorInfo of a gRPC status
// anywhere in err's chain. It is ERROR_REASON_UNSPECIFIED for nil, for a handler's own error, and
// for a reason of a newer Plait.
func Reason(err error) plaitv1.ErrorReason {
	info := errorInfo(err)
	if info == nil {
		return plaitv1.ErrorReason_ERROR_REASON_UNSPECIFIED
	}
	return plaitv1.ErrorReason(plaitv1.ErrorReason_value[reasonPrefix+info.GetReason()])
}

// RetryAfter is how long google.rpc.RetryInfo asks to wait, in a gRPC status anywhere in err's
// chain, Plait's or anybody else's. It is not ok when there is none.
func RetryAfter(err error) (delay time.Duration, ok bool) {
	for _, detail := range status.Convert(err).Details() {
		if info, is := detail.(*errdetails.RetryInfo); is && info.GetRetryDelay() != nil {
			return info.GetRetryDelay().AsDuration(), true
		}
	}
	return 0, false
}

func errorInfo(err error) *errdetails.ErrorInfo {
	st, ok := status.FromError(err)
	if !ok || st.Code() == codes.OK {
		return nil
	}
	for _, detail := range st.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == errorDomain {
			return info
		}
	}
	return nil
}

// refusal is an error of the SDK's own making. Variable parts of the message are repeated in facts.
func refusal(
	code codes.Code, reason plaitv1.ErrorReason, message string, facts map[string]string,
	more ...protoadapt.MessageV1,
) error {
	details := append([]protoadapt.MessageV1{&errdetails.ErrorInfo{
		Domain:   errorDomain,
		Reason:   strings.TrimPrefix(reason.String(), reasonPrefix),
		Metadata: facts,
	}}, more...)
	st, err := status.New(code, message).WithDetails(details...)
	if err != nil {
		// Code OK, or a detail that cannot be marshalled: both would be a fault of this file.
		return status.Error(code, message)
	}
	return st.Err()
}

func methodUnknown(method string) error {
	return refusal(codes.FailedPrecondition, plaitv1.ErrorReason_ERROR_REASON_METHOD_UNKNOWN,
		fmt.Sprintf("no contract declares %s, and this program has none to announce", method),
		map[string]string{"method": method})
}

func keyMissing(method, key, path string) error {
	return refusal(codes.InvalidArgument, plaitv1.ErrorReason_ERROR_REASON_KEY_MISSING,
		fmt.Sprintf("%s needs an %s key and field %q of the request is empty", method, key, path),
		map[string]string{"method": method, "key": key, "path": path})
}

func tooLarge(what string, size, limit uint64) error {
	return refusal(codes.InvalidArgument, plaitv1.ErrorReason_ERROR_REASON_TOO_LARGE,
		fmt.Sprintf("the %s has %d bytes; the limit is %d", what, size, limit),
		map[string]string{
			"field": what,
			"size":  strconv.FormatUint(size, 10), "limit": strconv.FormatUint(limit, 10),
		})
}

func invalid(field, problem string) error {
	return refusal(codes.InvalidArgument, plaitv1.ErrorReason_ERROR_REASON_INVALID_REQUEST,
		fmt.Sprintf("%s: %s", field, problem), map[string]string{"field": field},
		&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
			{Field: field, Description: problem},
		}})
}

// waitEnded is the error of a wait that its own context ended. It names the last trouble with the
// broker, if any, because that is usually why the wait was long.
func waitEnded(ctx context.Context, what string, trouble error) error {
	st := status.FromContextError(ctx.Err())
	if trouble != nil {
		return status.Errorf(st.Code(), "waiting for %s: %v; last trouble with the broker: %v",
			what, ctx.Err(), trouble)
	}
	return status.Errorf(st.Code(), "waiting for %s: %v", what, ctx.Err())
}

// failureError makes the error that a gRPC call would have given for a failure of a handler.
// Details are those that the handler sent, whatever code and message their own status carries.
func failureError(f *plaitv1.Failure) error {
	st := &spb.Status{}
	if len(f.GetDetails()) > 0 && proto.Unmarshal(f.GetDetails(), st) != nil {
		st = &spb.Status{}
	}
	st.Code, st.Message = int32(codes.Unknown), f.GetMessage()
	if code := f.GetCode(); code != 0 && code <= codeMax {
		st.Code = int32(code)
	}
	return status.ErrorProto(st)
}

// failureOf makes the failure that a gRPC server would have answered for a handler's error.
func failureOf(err error, trailer metadata.MD) *plaitv1.Failure {
	st, ok := status.FromError(err)
	if !ok {
		st = status.FromContextError(err)
	}
	f := &plaitv1.Failure{Code: uint32(st.Code()), Message: st.Message()}
	if p := st.Proto(); len(p.GetDetails()) > 0 {
		if details, err := proto.Marshal(p); err == nil {
			f.Details = details
		}
	} else if own := trailer.Get(detailsKey); len(own) > 0 {
		f.Details = []byte(own[0])
	}
	f.Trailers = metadatumList(trailer)
	return bounded(f)
}

// What the broker keeps of a failure; more is not sent, so that no failure can fill a frame.
const (
	failureMessageMax  = 8 << 10
	failureDetailsMax  = 16 << 10
	failureTrailersMax = metadataBytesMax
)

// bounded cuts a long message, and leaves out details and trailers that are too large.
func bounded(f *plaitv1.Failure) *plaitv1.Failure {
	f.Message = wireText(f.GetMessage(), failureMessageMax)
	if len(f.GetDetails()) > failureDetailsMax {
		f.Details = nil
	}
	if metadataBytes(f.GetTrailers()) > failureTrailersMax {
		f.Trailers = nil
	}
	return f
}

// wireText is a text as a protobuf message can carry it: valid UTF-8, and not too long.
func wireText(text string, bytesMax int) string {
	if len(text) > bytesMax {
		end := bytesMax
		for end > 0 && !utf8.RuneStart(text[end]) {
			end--
		}
		text = text[:end]
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

func failureBytes(f *plaitv1.Failure) int {
	return len(f.GetMessage()) + len(f.GetDetails()) + metadataBytes(f.GetTrailers())
}

// permanent tells an answer of the broker that a reconnect cannot change.
func permanent(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.NotFound, codes.PermissionDenied, codes.FailedPrecondition,
		codes.OutOfRange, codes.Unimplemented, codes.Unauthenticated:
		return true
	default:
		return false
	}
}

// errClosed is what calls get on a client that was closed.
var errClosed = status.Error(codes.Canceled, "the client was closed")
