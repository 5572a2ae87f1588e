package plait

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The names that every SDK exports; sdk/python's tests hold the file to the lines that are read
// here.
const surfaceFile = "../surface.toml"

// TestSurface_IsTheListedOne holds the packages plait and plaittest to sdk/surface.toml: no name
// less, none more.
func TestSurface_IsTheListedOne(t *testing.T) {
	t.Parallel()
	listed := listedNames(t)
	exported := exportedNames(t, ".", "")
	maps.Copy(exported, exportedNames(t, "plaittest", "plaittest."))
	for _, name := range slices.Sorted(maps.Keys(listed)) {
		if !exported[name] {
			t.Errorf("%s is in sdk/surface.toml, not in the package", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(exported)) {
		if !listed[name] {
			t.Errorf("%s is in the package, not in sdk/surface.toml", name)
		}
	}
}

var (
	surfaceEntry    = regexp.MustCompile(`^\[\w+\."([\w.\[\]]+)"\]$`)
	surfaceSpelling = regexp.MustCompile(`^(absent\.|only\.)?(\w+) = (.+)$`)
)

// listedNames are Go's spellings. Where the file says none, it is the name's by convention.
func listedNames(t *testing.T) map[string]bool {
	t.Helper()
	raw, err := os.ReadFile(surfaceFile)
	if err != nil {
		t.Fatal(err)
	}
	spelled := map[string][]string{}
	entry := ""
	for line := range strings.Lines(string(raw)) {
		line = strings.TrimSpace(line)
		if found := surfaceEntry.FindStringSubmatch(line); found != nil {
			entry = found[1]
			spelled[entry] = []string{conventional(entry)}
		} else if said := surfaceSpelling.FindStringSubmatch(line); said != nil {
			spelled[entry] = spelling(t, spelled[entry], said[1], said[2], said[3])
		} else if line != "" && !strings.HasPrefix(line, "#") {
			t.Fatalf("%s has a line of an unknown kind: %s", surfaceFile, line)
		}
	}
	names := map[string]bool{}
	for _, several := range spelled {
		for _, name := range several {
			if names[name] {
				t.Errorf("%s is listed twice", name)
			}
			names[name] = true
		}
	}
	if len(names) < 50 {
		t.Fatalf("%s lists %d names", surfaceFile, len(names))
	}
	return names
}

// spelling is what a line leaves of the names so far: a name or a list of them, which TOML writes as
// JSON does, or none.
func spelling(t *testing.T, so []string, prefix, language, value string) []string {
	t.Helper()
	switch {
	case prefix == "absent." && language == "go", prefix == "only." && language != "go":
		return nil
	case prefix != "" || language != "go":
		return so
	case !strings.HasPrefix(value, "["):
		value = "[" + value + "]"
	}
	var names []string
	if err := json.Unmarshal([]byte(value), &names); err != nil {
		t.Fatal(err)
	}
	return names
}

// conventional is "Attempt.TaskID" for "Attempt.task_id", and "Breaker.Acquire" for
// "breaker.Breaker.acquire": the package has no modules.
func conventional(name string) string {
	parts := strings.Split(name, ".")
	if len(parts) > 1 && parts[0] == strings.ToLower(parts[0]) {
		parts = parts[1:]
	}
	for i, part := range parts {
		words := strings.Split(part, "_")
		for j, word := range words {
			words[j] = strings.ToUpper(word[:1]) + word[1:]
			if word == "id" {
				words[j] = "ID"
			}
		}
		parts[i] = strings.Join(words, "")
	}
	return strings.Join(parts, ".")
}

// exportedNames are the exported identifiers of a package in a folder, with the methods and fields
// of exported types.
func exportedNames(t *testing.T, folder, prefix string) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		name := entry.Name()
		if entry.Type() == fs.ModeDir || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), folder+"/"+name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, declaration := range file.Decls {
			for _, each := range declared(declaration) {
				names[prefix+each] = true
			}
		}
	}
	return names
}

func declared(declaration ast.Decl) []string {
	switch d := declaration.(type) {
	case *ast.FuncDecl:
		if owner := receiver(d); owner == "" {
			return exportedOf("", d.Name)
		} else if ast.IsExported(owner) {
			return exportedOf(owner+".", d.Name)
		}
	case *ast.GenDecl:
		var names []string
		for _, spec := range d.Specs {
			switch s := spec.(type) {
			case *ast.ValueSpec:
				names = append(names, exportedOf("", s.Names...)...)
			case *ast.TypeSpec:
				if s.Name.IsExported() {
					names = append(append(names, s.Name.Name), fields(s)...)
				}
			}
		}
		return names
	}
	return nil
}

func receiver(d *ast.FuncDecl) string {
	if d.Recv == nil {
		return ""
	}
	kind := d.Recv.List[0].Type
	for {
		switch k := kind.(type) {
		case *ast.StarExpr:
			kind = k.X
		case *ast.IndexExpr:
			kind = k.X
		case *ast.IndexListExpr:
			kind = k.X
		case *ast.Ident:
			return k.Name
		default:
			return ""
		}
	}
}

// fields are the exported fields of a struct, or the methods of an interface; one that is embedded
// has the name of its type.
func fields(spec *ast.TypeSpec) []string {
	var list *ast.FieldList
	switch kind := spec.Type.(type) {
	case *ast.StructType:
		list = kind.Fields
	case *ast.InterfaceType:
		list = kind.Methods
	default:
		return nil
	}
	var names []string
	for _, field := range list.List {
		names = append(names, exportedOf(spec.Name.Name+".", field.Names...)...)
	}
	return names
}

func exportedOf(prefix string, names ...*ast.Ident) []string {
	var exported []string
	for _, name := range names {
		if name.IsExported() {
			exported = append(exported, prefix+name.Name)
		}
	}
	return exported
}
