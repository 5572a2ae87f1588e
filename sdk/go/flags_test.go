package plait

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	plaitv1 "plait.dev/plait/gen/plait/v1"
)

// The vectors that all languages share; interop/vectors/README.md says what they are.
const flagsFile = "../../interop/vectors/flags.json"

type flagVectors struct {
	Schema    int `json:"schema"`
	Positions []struct {
		Name     string `json:"name"`
		Key      string `json:"key"`
		Position uint32 `json:"position"`
	} `json:"positions"`
	Cases []struct {
		Why  string `json:"why"`
		Rule *struct {
			Name    string   `json:"name"`
			Share   uint32   `json:"share"`
			KeysOn  []string `json:"keys_on"`
			KeysOff []string `json:"keys_off"`
			Missing bool     `json:"missing"`
		} `json:"rule"`
		Key     *string `json:"key"`
		Default bool    `json:"default"`
		On      bool    `json:"on"`
	} `json:"cases"`
}

func readFlagVectors(t *testing.T) flagVectors {
	t.Helper()
	raw, err := os.ReadFile(filepath.FromSlash(flagsFile))
	if err != nil {
		t.Fatal(err)
	}
	var file flagVectors
	if err := strict(raw, &file); err != nil {
		t.Fatal(err)
	}
	if file.Schema != 1 || len(file.Positions) < 29 || len(file.Cases) < 17 {
		t.Fatalf("schema %d, %d and %d vectors", file.Schema, len(file.Positions), len(file.Cases))
	}
	return file
}

func TestVectors_KeysOfFlagsStandInTheSamePlace(t *testing.T) {
	t.Parallel()
	for _, v := range readFlagVectors(t).Positions {
		if got := flagPosition(v.Name, v.Key); got != v.Position {
			t.Errorf("%s of %s: %d, want %d", v.Key, v.Name, got, v.Position)
		}
	}
}

func TestVectors_FlagsSayTheSame(t *testing.T) {
	t.Parallel()
	for _, v := range readFlagVectors(t).Cases {
		var rule *plaitv1.FlagRule
		if v.Rule != nil {
			rule = &plaitv1.FlagRule{
				Name: v.Rule.Name, Share: v.Rule.Share, KeysOn: v.Rule.KeysOn,
				KeysOff: v.Rule.KeysOff, Missing: v.Rule.Missing,
			}
		}
		q := flagQuestion{otherwise: v.Default, hasKey: v.Key != nil}
		if v.Key != nil {
			q.key = *v.Key
		}
		if got := q.answer(rule); got != v.On {
			t.Errorf("%s: %v", v.Why, got)
		}
	}
}

func on(name string) *plaitv1.FlagRule  { return &plaitv1.FlagRule{Name: name, Share: shareMax} }
func off(name string) *plaitv1.FlagRule { return &plaitv1.FlagRule{Name: name} }

func TestFlag_AnAttemptSeesItsBeginningAndTheNextOneTheChange(t *testing.T) {
	t.Parallel()
	var board flagBoard
	board.change(&plaitv1.FlagFrame{Flags: []*plaitv1.FlagRule{on("c")}})
	board.replace([]*plaitv1.FlagRule{on("a"), on("b")})
	first := &attempt{task: 7, flags: board.now()}
	board.change(&plaitv1.FlagFrame{Flags: []*plaitv1.FlagRule{off("a")}, Removed: []string{"b"}})
	next := &attempt{task: 8, flags: board.now()}
	for name, want := range map[string][2]bool{
		"a": {true, false}, "b": {true, false}, "c": {false, false}, "Not a name": {false, false},
	} {
		if got := [2]bool{Flag(first, name), Flag(next, name)}; got != want {
			t.Errorf("%s = %v, want %v", name, got, want)
		}
	}
	if !Flag(next, "b", WithFlagDefault(true)) || Flag(next, "a", WithFlagDefault(true)) {
		t.Error("a default holds where there is no flag, and only there")
	}
}

func TestFlag_WhatAnEarlierRunReadHoldsAndIsToldAgain(t *testing.T) {
	t.Parallel()
	a := &attempt{
		task: 7, flags: flagRules{"a": on("a"), "c": on("c")},
		extra: &plaitv1.AttemptExtra{Flags: []*plaitv1.FlagRule{off("a"), on("b")}},
	}
	if told := a.childOptions().GetParent().GetFlags(); len(told) != 0 {
		t.Fatalf("told %v", told)
	}
	if Flag(a, "a") || !Flag(a, "c") || Flag(a, "none") {
		t.Fatal("the record does not hold")
	}
	told := a.childOptions().GetParent().GetFlags()
	if len(told) != 3 || told[0].GetShare() != 0 || !told[2].GetMissing() {
		t.Fatalf("told %v", told)
	}
	if len(a.flowParent().GetFlags()) != 3 {
		t.Fatal("a child with options of its own tells nothing")
	}
}

func TestFlag_ATaskReadsByItsKeysElseByThoseOfItsFlow(t *testing.T) {
	t.Parallel()
	for want, extra := range map[string]*plaitv1.AttemptExtra{
		"o":                 {OrderingKey: "o", IdempotencyKey: "i", FlagKey: "f", Parent: 9},
		"i":                 {IdempotencyKey: "i", FlagKey: "f", Parent: 9},
		"f":                 {FlagKey: "f", Parent: 9},
		"t0000000000000009": {Parent: 9},
		"t0000000000000007": nil,
	} {
		rule := &plaitv1.FlagRule{Name: "a", KeysOn: []string{want}}
		a := &attempt{task: 7, extra: extra, flags: flagRules{"a": rule}}
		if !Flag(a, "a") || Flag(a, "a", WithFlagKey("other")) || !Flag(a, "a", WithFlagKey(want)) {
			t.Errorf("not by %s", want)
		}
	}
}

func TestFlag_ADirectCallHasNoKey(t *testing.T) {
	t.Parallel()
	most := &plaitv1.FlagRule{Name: "most", Share: shareMax - 1}
	rules := flagRules{"all": on("all"), "most": most}
	ctx := context.WithValue(t.Context(), flagsKey{}, rules)
	if !Flag(ctx, "all") || Flag(ctx, "most") || !Flag(ctx, "most", WithFlagKey("k")) {
		t.Error("a call without a key sees what is on for everybody")
	}
	if Flag(t.Context(), "all") || !Flag(t.Context(), "all", WithFlagDefault(true)) {
		t.Error("outside of a handler the default holds")
	}
}
