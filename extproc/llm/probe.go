package llm

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"keybridge/extproc/grant"
)

// anthropicVersion is the version of the Anthropic API that probes speak
// ("Versions", Anthropic API reference).
const anthropicVersion = "2023-06-01"

// maxListed bounds the models that are taken from one provider. The largest
// aggregators list some hundreds.
const maxListed = 5000

// Probe asks the connector's provider for its models, which costs nothing and
// shows whether the key is good. The error is the provider's own words, or why it
// was not reached.
//
// The client decides which host is reached, and limits time and size. It is not an
// SDK's call: those follow what a server says further than this should.
func Probe(ctx context.Context, client *http.Client, c *grant.Connector) (grant.Probed, error) {
	u := url.URL{Scheme: c.Credential.Binding().Scheme, Host: c.Authority, Path: c.BasePath + "/models"}
	if c.Provider == grant.ProviderAnthropic {
		u.RawQuery = "limit=1000" // at most ("List Models", Anthropic API reference)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return grant.Probed{}, err
	}
	secret := c.Credential.Secret().Bytes()
	if !sendable(secret) {
		return grant.Probed{}, errors.New("the key cannot be sent in a header")
	}
	// net/http wants a string: a bearer key is copied while it is in flight.
	if c.Provider == grant.ProviderAnthropic {
		r.Header.Set("X-Api-Key", string(secret))
		r.Header.Set("Anthropic-Version", anthropicVersion)
	} else {
		r.Header.Set("Authorization", "Bearer "+string(secret))
	}
	r.Header.Set("Accept", "application/json")
	answer, err := client.Do(r)
	if err != nil {
		var unreached *url.Error
		if errors.As(err, &unreached) {
			err = unreached.Err
		}
		return grant.Probed{}, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	switch {
	case 300 <= answer.StatusCode && answer.StatusCode < 400:
		return grant.Probed{}, fmt.Errorf("the provider redirects (HTTP %d), and redirects are not followed", answer.StatusCode)
	case answer.StatusCode != http.StatusOK:
		return grant.Probed{Denied: answer.StatusCode == http.StatusUnauthorized}, refusal(answer.StatusCode, body)
	case err != nil:
		return grant.Probed{}, fmt.Errorf("reading the list of models: %w", err)
	}
	models, err := listed(body)
	return grant.Probed{Models: models}, err
}

// listed reads a list of models: OpenAI's and Anthropic's object with data, or the
// bare array of some compatible providers.
func listed(body []byte) ([]grant.Model, error) {
	type model struct {
		ID          string          `json:"id"`
		Name        string          `json:"name"`         // some aggregators
		DisplayName string          `json:"display_name"` // Anthropic
		Created     json.RawMessage `json:"created"`      // seconds; not everywhere a number
		CreatedAt   string          `json:"created_at"`   // Anthropic, RFC 3339
	}
	var list struct {
		Data []model `json:"data"`
	}
	var err error
	if bytes.HasPrefix(bytes.TrimSpace(body), []byte("[")) {
		err = json.Unmarshal(body, &list.Data)
	} else {
		err = json.Unmarshal(body, &list)
	}
	if err != nil || list.Data == nil {
		return nil, errors.New("the provider's answer is not a list of models: is the endpoint's path right?")
	}
	out := make([]grant.Model, 0, min(len(list.Data), maxListed))
	for _, m := range list.Data {
		if m.ID == "" || len(m.ID) > maxModel || len(out) == maxListed {
			continue
		}
		created, err := strconv.ParseInt(string(m.Created), 10, 64)
		if at, parseErr := time.Parse(time.RFC3339, m.CreatedAt); err != nil && parseErr == nil {
			created = at.Unix()
		}
		name := cmp.Or(m.DisplayName, m.Name)
		if len(name) > maxModel {
			name = ""
		}
		out = append(out, grant.Model{ID: m.ID, Name: name, Created: max(created, 0), Listed: true})
	}
	return out, nil
}

// refusal is the message of a provider's error, in the forms that are about.
func refusal(status int, body []byte) error {
	var in struct {
		Error   json.RawMessage `json:"error"`
		Message string          `json:"message"`
	}
	message := ""
	if json.Unmarshal(body, &in) == nil {
		var detail struct {
			Message string `json:"message"`
		}
		if json.Unmarshal(in.Error, &message) != nil && json.Unmarshal(in.Error, &detail) == nil {
			message = detail.Message
		}
		message = cmp.Or(message, in.Message)
	}
	what := strings.TrimSpace(fmt.Sprintf("HTTP %d %s", status, http.StatusText(status)))
	if message == "" {
		return errors.New(what)
	}
	return fmt.Errorf("%s: %s", what, message)
}
