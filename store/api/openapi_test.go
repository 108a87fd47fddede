package api_test

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"gopkg.in/yaml.v3"

	"keybridge/store/api"
)

// document is the OpenAPI document that the server serves. Every response of
// every test in this package is held against it (see env.as).
type document struct {
	root  m
	paths m
}

func loadDocument(t testing.TB, url string) *document {
	t.Helper()
	resp, err := http.Get(url + "/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/yaml" {
		t.Fatalf("GET /openapi.yaml: %d, %v, %v", resp.StatusCode, resp.Header, err)
	}
	d := &document{}
	if err := yaml.Unmarshal(text, &d.root); err != nil {
		t.Fatalf("openapi.yaml: %v", err)
	}
	d.paths, _ = d.root["paths"].(m)
	return d
}

// TestDocumentNamesEveryRoute is one half of "code and document agree"; the other
// is that all answers of all tests match their schemas.
func TestDocumentNamesEveryRoute(t *testing.T) {
	e := newEnv(t)
	var documented []string
	operations := map[string]bool{}
	for path, item := range e.doc.paths {
		for method, op := range item.(m) {
			if method == "parameters" {
				continue
			}
			documented = append(documented, strings.ToUpper(method)+" "+path)
			o := op.(m)
			id, _ := o["operationId"].(string)
			if id == "" || operations[id] {
				t.Errorf("%s %s: operationId %q is missing or not unique", method, path, id)
			}
			operations[id] = true
			e.doc.checkParameters(t, path, item.(m), o)
		}
	}
	routes := api.Routes()
	slices.Sort(routes)
	slices.Sort(documented)
	if diff := cmp.Diff(routes, documented); diff != "" {
		t.Errorf("routes (-code +document):\n%s", diff)
	}
	if e.doc.root["openapi"] != "3.1.0" {
		t.Errorf("openapi: %v", e.doc.root["openapi"])
	}
	e.doc.checkRefs(t, e.doc.root)
}

// checkParameters wants every {name} of a path declared.
func (d *document) checkParameters(t *testing.T, path string, item, op m) {
	t.Helper()
	declared := map[string]bool{}
	for _, list := range []any{item["parameters"], op["parameters"]} {
		params, _ := list.([]any)
		for _, p := range params {
			o := d.resolve(p.(m))
			if o["in"] == "path" {
				declared[o["name"].(string)] = true
			}
		}
	}
	used := map[string]bool{}
	for _, match := range regexp.MustCompile(`\{(\w+)\}`).FindAllStringSubmatch(path, -1) {
		used[match[1]] = true
	}
	if diff := cmp.Diff(used, declared); diff != "" {
		t.Errorf("path parameters of %s (-used +declared):\n%s", path, diff)
	}
}

func (d *document) checkRefs(t *testing.T, v any) {
	t.Helper()
	switch v := v.(type) {
	case m:
		if _, ok := v["$ref"]; ok && d.resolve(v) == nil {
			t.Errorf("%v leads nowhere", v["$ref"])
		}
		for _, child := range v {
			d.checkRefs(t, child)
		}
	case []any:
		for _, child := range v {
			d.checkRefs(t, child)
		}
	}
}

func (d *document) resolve(o m) m {
	for {
		ref, ok := o["$ref"].(string)
		if !ok {
			return o
		}
		at := any(d.root)
		for part := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
			parent, _ := at.(m)
			at = parent[part]
		}
		o, _ = at.(m)
		if o == nil {
			return nil
		}
	}
}

// check holds a response against the schema of its operation and status. What
// has no operation must be a Failure.
func (d *document) check(t testing.TB, method, path string, a answer) {
	t.Helper()
	schema := m{"$ref": "#/components/schemas/Failure"}
	if op := d.operation(strings.ToLower(method), path); op != nil {
		responses := op["responses"].(m)
		r, ok := responses[fmt.Sprint(a.status)].(m)
		if !ok {
			r, ok = responses["default"].(m)
		}
		if !ok || a.status == http.StatusOK && responses["200"] == nil {
			t.Errorf("%s %s: status %d is not documented", method, path, a.status)
			return
		}
		schema = d.resolve(r)["content"].(m)["application/json"].(m)["schema"].(m)
	}
	if err := d.validate(schema, a.value, "$"); err != nil {
		t.Errorf("%s %s: status %d does not match openapi.yaml: %v\n%s", method, path, a.status, err, a.raw)
	}
}

// operation finds a path's operation; literal segments win over parameters.
func (d *document) operation(method, path string) m {
	if item, ok := d.paths[path].(m); ok {
		op, _ := item[method].(m)
		return op
	}
	for template, item := range d.paths {
		pattern := regexp.MustCompile(`\{\w+\}`).ReplaceAllString(template, `[^/]+`)
		if regexp.MustCompile("^" + pattern + "$").MatchString(path) {
			op, _ := item.(m)[method].(m)
			return op
		}
	}
	return nil
}

// validate implements the part of JSON Schema that openapi.yaml uses for answers.
func (d *document) validate(schema m, v any, at string) error {
	schema = d.resolve(schema)
	if want, ok := schema["const"]; ok && !reflect.DeepEqual(want, v) {
		return fmt.Errorf("%s: %v is not %v", at, v, want)
	}
	if enum, ok := schema["enum"].([]any); ok && !slices.ContainsFunc(enum, func(x any) bool { return reflect.DeepEqual(x, v) }) {
		return fmt.Errorf("%s: %v is none of %v", at, v, enum)
	}
	if types, ok := schema["type"]; ok {
		list, isList := types.([]any)
		if !isList {
			list = []any{types}
		}
		if !slices.Contains(list, any(typeOf(v))) {
			return fmt.Errorf("%s: a %s, want %v", at, typeOf(v), types)
		}
	}
	switch v := v.(type) {
	case string:
		return checkString(schema, v, at)
	case float64:
		if low, ok := schema["minimum"].(int); ok && v < float64(low) {
			return fmt.Errorf("%s: %v is less than %d", at, v, low)
		}
	case []any:
		if items, ok := schema["items"].(m); ok {
			for i, item := range v {
				if err := d.validate(items, item, fmt.Sprintf("%s[%d]", at, i)); err != nil {
					return err
				}
			}
		}
	case m:
		return d.validateObject(schema, v, at)
	}
	return nil
}

func (d *document) validateObject(schema, v m, at string) error {
	required, _ := schema["required"].([]any)
	for _, name := range required {
		if _, ok := v[name.(string)]; !ok {
			return fmt.Errorf("%s: %v is missing", at, name)
		}
	}
	properties, _ := schema["properties"].(m)
	for _, name := range slices.Sorted(maps.Keys(v)) {
		property, ok := properties[name].(m)
		if !ok {
			if schema["additionalProperties"] == false {
				return fmt.Errorf("%s: %s is not documented", at, name)
			}
			if property, ok = schema["additionalProperties"].(m); !ok {
				continue
			}
		}
		if err := d.validate(property, v[name], at+"."+name); err != nil {
			return err
		}
	}
	return nil
}

func checkString(schema m, v, at string) error {
	if pattern, ok := schema["pattern"].(string); ok && !regexp.MustCompile(pattern).MatchString(v) {
		return fmt.Errorf("%s: does not match %s", at, pattern)
	}
	var err error
	switch schema["format"] {
	case "uuid":
		err = uuid.Validate(v)
	case "date-time":
		_, err = time.Parse(time.RFC3339, v)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	return nil
}

func typeOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case string:
		return "string"
	case float64:
		if v == float64(int64(v)) {
			return "integer"
		}
		return "number"
	case []any:
		return "array"
	}
	return "object"
}
