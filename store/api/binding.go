package api

import (
	"fmt"
	"net/http"

	"keybridge/keyshare/seal"
	"keybridge/store"
)

// Endpoints of connectors that name none.
const (
	defaultRegion     = "us-east-1"
	defaultS3Endpoint = "https://s3.%s.amazonaws.com" // AWS: "Amazon S3 endpoints", regional
	defaultOpenAI     = "https://api.openai.com/v1"
	defaultAnthropic  = "https://api.anthropic.com/v1"
	wholeAccount      = "*" // as a bucket: any bucket of the credential
	defaultAIPath     = "/v1"
	maxCA             = 128 << 10
)

// bind derives a connector's endpoint and its credential's binding, filling in
// what is left to defaults. key is the provider's access key id.
func bind(c *store.Connector, key string) (seal.Endpoint, seal.Binding, error) {
	none := func(err error) (seal.Endpoint, seal.Binding, error) { return seal.Endpoint{}, seal.Binding{}, err }
	if c.Type == store.TypeS3 {
		if c.Region == "" {
			c.Region = defaultRegion
		}
		if err := checkRegion(c.Region); err != nil {
			return none(err)
		}
		if err := checkBucket(c.Bucket); err != nil {
			return none(err)
		}
		if err := checkAccessKey(key); err != nil {
			return none(err)
		}
	}
	switch {
	case c.Endpoint != "":
	case c.Type == store.TypeS3:
		c.Endpoint = defaultS3(c.Region)
	case c.Type == store.TypeOpenAI:
		c.Endpoint = defaultOpenAI
	case c.Type == store.TypeAnthropic:
		c.Endpoint = defaultAnthropic
	default:
		return none(badField("endpoint", "is required for aiType %s", c.Type))
	}
	e, err := seal.ParseEndpoint(c.Endpoint)
	if err != nil {
		return none(badField("endpoint", "%v", err))
	}
	b := seal.Binding{Scheme: e.Scheme, Host: e.Host, Port: e.Port, CA: seal.CADigest([]byte(c.CACertificate))}
	if c.Type == store.TypeS3 {
		if e.Path != "" {
			return none(badField("endpoint", "has a path; the bucket is named in bucket"))
		}
		b.Use, b.Key, b.Scope = seal.UseS3, key, c.Bucket
	} else {
		if e.Path == "" {
			e.Path = defaultAIPath
		}
		b.Use, b.Scope = aiUse(c.Type), e.Path
	}
	if err := checkCA(c.CACertificate, e.Scheme); err != nil {
		return none(err)
	}
	c.Endpoint = e.String()
	return e, b, nil
}

// defaultS3 is AWS in a region.
func defaultS3(region string) string { return fmt.Sprintf(defaultS3Endpoint, region) }

// aiUse is what the secret of an AI connector is for.
func aiUse(t store.ConnectorType) string {
	if t == store.TypeAnthropic {
		return seal.UseAnthropic
	}
	return seal.UseOpenAI
}

// sealSecret makes a form's secret into the sealed record of a header.
func (s *server) sealSecret(secret secretText, sealed *seal.Sealed, h seal.Header, e seal.Endpoint) (*seal.Sealed, error) {
	if err := s.Policy.Check(e); err != nil {
		return nil, badField("endpoint", "%v", err)
	}
	if err := h.Validate(); err != nil {
		return nil, &failure{http.StatusBadRequest, "INVALID_FIELD", err.Error()}
	}
	pub, err := s.currentKey()
	if err != nil {
		return nil, err
	}
	if sealed == nil {
		return seal.Seal(pub, h, secret)
	}
	if field := headerDifference(sealed.Header, h); field != "" {
		return nil, &failure{http.StatusBadRequest, "SEALED_MISMATCH", "sealedSecret: " + field + " is not what this request asks for"}
	}
	if sealed.Key.KeyID != pub.ID() {
		return nil, conflict("SEALING_KEY_CHANGED", "sealedSecret: it is sealed to another key than GET /sealing-key names now")
	}
	return sealed, nil
}

// headerDifference names the first field in which two headers differ.
func headerDifference(got, want seal.Header) string {
	switch {
	case got.Format != want.Format:
		return "header.format"
	case got.Workspace != want.Workspace:
		return "header.workspace"
	case got.Type != want.Type:
		return "header.type"
	case got.Record != want.Record:
		return "header.record"
	case got.Version != want.Version:
		return fmt.Sprintf("header.version (the next is %d)", want.Version)
	case got.Binding.Use != want.Binding.Use:
		return "header.binding.use"
	case got.Binding.Key != want.Binding.Key:
		return "header.binding.key"
	case got.Binding.Scheme != want.Binding.Scheme:
		return "header.binding.scheme"
	case got.Binding.Host != want.Binding.Host:
		return "header.binding.host"
	case got.Binding.Port != want.Binding.Port:
		return "header.binding.port"
	case got.Binding.CA != want.Binding.CA:
		return "header.binding.ca"
	case got.Binding.Scope != want.Binding.Scope:
		return "header.binding.scope"
	case got != want: // fields that no credential has, or that were added to Header since
		return "header"
	}
	return ""
}

func useOf(t store.ConnectorType) string {
	if t == store.TypeS3 {
		return seal.UseS3
	}
	return aiUse(t)
}
