package plait

import (
	"encoding/hex"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	plaitv1 "plait.dev/plait/gen/plait/v1"
)

// The vectors that all languages share; interop/vectors/README.md says what they are.
const errorCodesFile = "../../interop/vectors/error_codes.json"

type errorCodes struct {
	Schema  int `json:"schema"`
	Reasons []struct {
		Reason    string `json:"reason"`
		Number    int32  `json:"number"`
		Code      string `json:"code"`
		RetryInfo bool   `json:"retry_info"`
	} `json:"reasons"`
	Codes []struct {
		Code        string `json:"code"`
		Number      uint32 `json:"number"`
		TaskRetried bool   `json:"task_retried"`
	} `json:"codes"`
	Errors []errorVector `json:"errors"`
}

type errorVector struct {
	Name         string            `json:"name"`
	Number       uint32            `json:"number"`
	Code         string            `json:"code"`
	Message      string            `json:"message"`
	Details      string            `json:"details_hex"`
	Reason       *string           `json:"reason"`
	Known        bool              `json:"known"`
	Metadata     map[string]string `json:"metadata"`
	RetryAfterMs *int64            `json:"retry_after_ms"`
}

func TestVectors_ErrorsAreReadTheSame(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile(filepath.FromSlash(errorCodesFile))
	if err != nil {
		t.Fatal(err)
	}
	var file errorCodes
	if err := strict(raw, &file); err != nil {
		t.Fatal(err)
	}
	if file.Schema != 1 || len(file.Errors) < 37 {
		t.Fatalf("schema %d with %d errors", file.Schema, len(file.Errors))
	}
	// One more is ERROR_REASON_UNSPECIFIED.
	if len(file.Reasons)+1 != len(plaitv1.ErrorReason_name) || len(file.Codes) != int(codeMax)+1 {
		t.Fatalf("%d reasons and %d codes", len(file.Reasons), len(file.Codes))
	}
	for _, r := range file.Reasons {
		if plaitv1.ErrorReason_name[r.Number] != reasonPrefix+r.Reason {
			t.Errorf("reason %d is %s, not %s", r.Number, plaitv1.ErrorReason_name[r.Number], r.Reason)
		}
	}
	for _, c := range file.Codes {
		if named(t, c.Code) != codes.Code(c.Number) {
			t.Errorf("code %s is not %d", c.Code, c.Number)
		}
	}
	for _, v := range file.Errors {
		t.Run(v.Name, func(t *testing.T) {
			t.Parallel()
			v.check(t)
		})
	}
}

func named(t *testing.T, name string) codes.Code {
	t.Helper()
	var code codes.Code
	if err := code.UnmarshalJSON([]byte(strconv.Quote(name))); err != nil {
		t.Fatal(err)
	}
	return code
}

// check reads the error that a submitter gets for a failure of a task.
func (v errorVector) check(t *testing.T) {
	t.Helper()
	details, err := hex.DecodeString(v.Details)
	if err != nil {
		t.Fatal(err)
	}
	failed := failureError(&plaitv1.Failure{Code: v.Number, Message: v.Message, Details: details})
	if st := status.Convert(failed); st.Code() != named(t, v.Code) || st.Message() != v.Message {
		t.Errorf("got %v", st)
	}
	// A reason of a newer Plait has no number here.
	want := noReason
	if v.Reason != nil && v.Known {
		want = plaitv1.ErrorReason(plaitv1.ErrorReason_value[reasonPrefix+*v.Reason])
	}
	if got := Reason(failed); got != want {
		t.Errorf("the reason is %v, want %v", got, want)
	}
	if info := errorInfo(failed); !maps.Equal(info.GetMetadata(), v.Metadata) {
		t.Errorf("the metadata is %v, want %v", info.GetMetadata(), v.Metadata)
	}
	delay, ok := RetryAfter(failed)
	if ok != (v.RetryAfterMs != nil) || ok && delay.Milliseconds() != *v.RetryAfterMs {
		t.Errorf("wait %v, %v", delay, ok)
	}
}
