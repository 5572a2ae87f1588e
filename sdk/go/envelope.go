package plait

import (
	"sort"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc/metadata"

	plaitv1 "plait.dev/plait/gen/plait/v1"
)

// metadataBytesMax bounds the metadata of one task (TaskOptions.metadata).
const metadataBytesMax = 16 << 10

// The metadata keys that a handler sees beside what was submitted.
const (
	keyTaskID         = "plait-task-id"
	keyAttempt        = "plait-attempt"
	keyFencingToken   = "plait-fencing-token"
	keyIdempotencyKey = "plait-idempotency-key"
)

// reserved tells keys that belong to gRPC, HTTP/2 or Plait and never travel as a user's metadata.
func reserved(key string) bool {
	for _, prefix := range []string{":", "grpc-", "plait-"} {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	switch key {
	case "content-type", "user-agent", "te":
		return true
	}
	return false
}

// metadatumList is md without reserved keys, sorted by key so that equal metadata gives equal
// bytes.
func metadatumList(md metadata.MD) []*plaitv1.Metadatum {
	if len(md) == 0 {
		return nil
	}
	keys := make([]string, 0, len(md))
	for key := range md {
		if !reserved(key) && utf8.ValidString(key) {
			keys = append(keys, key)
		}
	}
	sort.Strings(keys)
	var list []*plaitv1.Metadatum
	for _, key := range keys {
		for _, value := range md[key] {
			list = append(list, &plaitv1.Metadatum{Key: key, Value: []byte(value)})
		}
	}
	return list
}

func metadatumMap(list []*plaitv1.Metadatum, room int) metadata.MD {
	md := make(metadata.MD, len(list)+room)
	for _, m := range list {
		md[m.GetKey()] = append(md[m.GetKey()], string(m.GetValue()))
	}
	return md
}

func metadatumValue(list []*plaitv1.Metadatum, key string) string {
	for _, m := range list {
		if m.GetKey() == key {
			return string(m.GetValue())
		}
	}
	return ""
}

func metadataBytes(list []*plaitv1.Metadatum) int {
	size := 0
	for _, m := range list {
		size += len(m.GetKey()) + len(m.GetValue())
	}
	return size
}

// checkMetadata refuses more metadata than a task may carry.
func checkMetadata(list []*plaitv1.Metadatum) error {
	if size := metadataBytes(list); size > metadataBytesMax {
		return tooLarge("metadata", uint64(size), metadataBytesMax)
	}
	return nil
}
