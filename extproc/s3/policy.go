package s3

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"time"
)

var (
	failPolicy        = failure{"InvalidPolicyDocument", 400, "Invalid Policy: ", "policy"}
	failPolicyExpired = failure{"AccessDenied", 403, "Invalid according to Policy: Policy expired.", "policy_expired"}
	failCondition     = failure{"AccessDenied", 403, "Invalid according to Policy: Policy Condition failed: ", "policy_condition"}
)

// signedFields are those that renewPolicy replaces.
var signedFields = []string{"x-amz-algorithm", "x-amz-credential", "x-amz-date", sessionToken}

// renewPolicy is a form's policy ("POST Policy", Amazon S3 API Reference) with the
// conditions of the fields that are ours: the client's on those were held against the
// client's values. All others stay as they were spelt, and the provider holds the form
// against them. That it has expired is found here as well, since that ends what was
// signed.
//
// Where two readers could see different policies, there is none: member names are
// exact, each is there once, and nothing follows.
func renewPolicy(now time.Time, policy string, in *form, ours []formField) (string, *failure) {
	if policy == "" {
		return "", failPolicy.because("Expecting '{' but found End-of-Input")
	}
	text, err := base64.StdEncoding.Strict().DecodeString(policy)
	if err != nil {
		return "", failPolicy.because("invalid Base64 encoding.")
	}
	members, err := object(text)
	if err != nil {
		return "", failPolicy.because("Invalid JSON.")
	}
	for _, m := range members {
		if m.name != "expiration" && m.name != "conditions" {
			return "", failPolicy.because("Unexpected: " + quoted(m.name))
		}
	}
	expiration, conditions := member(members, "expiration"), member(members, "conditions")
	if expiration == nil {
		return "", failPolicy.because("Policy missing expiration.")
	}
	var end string
	if json.Unmarshal(expiration, &end) != nil {
		return "", failPolicy.because("Invalid JSON.")
	}
	until, err := time.Parse(time.RFC3339, end)
	switch {
	case err != nil || !strings.HasSuffix(end, "Z"):
		return "", failPolicy.because("Invalid 'expiration' value: '" + end[:min(len(end), maxDetail)] + "'")
	case conditions == nil:
		return "", failPolicy.because("Policy missing conditions.")
	case !now.Before(until):
		return "", &failPolicyExpired
	}
	var list []json.RawMessage
	if json.Unmarshal(conditions, &list) != nil {
		return "", failPolicy.because("Invalid 'conditions' value: must be a List.")
	}
	kept := make([]json.RawMessage, 0, len(list)+len(ours))
	for _, raw := range list {
		field, holds, f := condition(raw, in)
		switch {
		case f != nil:
			return "", f
		case !slices.Contains(signedFields, field):
			kept = append(kept, raw)
		case !holds:
			return "", failCondition.because(string(raw[:min(len(raw), maxDetail)]))
		}
	}
	for _, x := range ours {
		raw, err := json.Marshal(map[string]string{x.name: x.value})
		if err != nil {
			return "", &failSealed
		}
		kept = append(kept, raw)
	}
	again, err := json.Marshal(struct {
		Expiration json.RawMessage   `json:"expiration"`
		Conditions []json.RawMessage `json:"conditions"`
	}{expiration, kept})
	if err != nil {
		return "", failPolicy.because("Invalid JSON.")
	}
	return base64.StdEncoding.EncodeToString(again), nil
}

// condition is the field of a condition, in lower case, and whether the form's value is
// as it wants. What is no well-formed condition on a field has none: the provider says so.
func condition(raw json.RawMessage, in *form) (field string, holds bool, f *failure) {
	switch raw[0] {
	case '{':
		members, err := object(raw)
		switch {
		case err != nil:
			return "", false, failPolicy.because("Invalid JSON.")
		case len(members) != 1:
			return "", false, failPolicy.because("Invalid Simple-Condition: Simple-Conditions must have exactly one property specified.")
		}
		var want string
		if json.Unmarshal(members[0].value, &want) != nil || members[0].value[0] != '"' {
			return "", false, failPolicy.because("Invalid Simple-Condition: value must be a string.")
		}
		field = strings.ToLower(members[0].name)
		got, _ := in.get(field)
		return field, got == want, nil
	case '[':
		var parts []json.RawMessage
		if json.Unmarshal(raw, &parts) != nil {
			return "", false, failPolicy.because("Invalid JSON.")
		}
		var text [3]string
		if len(parts) != len(text) {
			return "", false, nil
		}
		for i, p := range parts {
			if p[0] != '"' || json.Unmarshal(p, &text[i]) != nil {
				return "", false, nil // a range of lengths, or nothing
			}
		}
		field = strings.ToLower(strings.TrimPrefix(text[1], "$"))
		got, _ := in.get(field)
		switch strings.ToLower(text[0]) {
		case "eq":
			return field, got == text[2], nil
		case "starts-with":
			return field, strings.HasPrefix(got, text[2]), nil
		}
		return field, false, nil
	}
	return "", false, failPolicy.because("Invalid condition test: must be a List or Object.")
}

type jsonMember struct {
	name  string
	value json.RawMessage
}

func member(members []jsonMember, name string) json.RawMessage {
	i := slices.IndexFunc(members, func(m jsonMember) bool { return m.name == name })
	if i < 0 {
		return nil
	}
	return members[i].value
}

var errTwice = errors.New("a member twice")

// object reads a JSON object whose members each have a name of their own.
func object(text []byte) (members []jsonMember, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.Join(errors.New("no object"), err)
	}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		m := jsonMember{name: t.(string)} // the decoder takes no other
		if err := d.Decode(&m.value); err != nil {
			return nil, err
		}
		if slices.ContainsFunc(members, func(o jsonMember) bool { return strings.EqualFold(o.name, m.name) }) {
			return nil, errTwice
		}
		members = append(members, m)
	}
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than an object")
	}
	return members, nil
}
