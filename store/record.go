package store

import "encoding/hex"

// KindOf tells a record's kind from its Go type; empty for a foreign type.
func KindOf(r Record) Kind {
	switch r.(type) {
	case *Workspace:
		return KindWorkspace
	case *Connector:
		return KindConnector
	case *Credential:
		return KindCredential
	case *Repository:
		return KindRepository
	case *Key:
		return KindKey
	case *Token:
		return KindToken
	case *Custody:
		return KindCustody
	}
	return ""
}

// NewRecord returns an empty record of a kind for a driver to decode into; nil for an unknown kind.
func NewRecord(k Kind) Record {
	switch k {
	case KindWorkspace:
		return new(Workspace)
	case KindConnector:
		return new(Connector)
	case KindCredential:
		return new(Credential)
	case KindRepository:
		return new(Repository)
	case KindKey:
		return new(Key)
	case KindToken:
		return new(Token)
	case KindCustody:
		return new(Custody)
	}
	return nil
}

// Put is the Write that creates a record (Version 0) or replaces the version
// that was read, holding the names that are the record's by rule. A deleted
// record gives its names up, but for a repository key: the id of a revoked key
// never comes to mean another one.
func Put(r Record) Write {
	m := r.Meta()
	w := Write{Record: r, Expect: m.Version}
	if k, ok := r.(*Key); ok {
		w.Unique = append(w.Unique, KeyName(k.Key))
	}
	if m.DeletedAt != nil {
		return w
	}
	switch r := r.(type) {
	case *Workspace:
		w.Unique = append(w.Unique, "workspace/"+r.Name)
	case *Connector:
		w.Unique = append(w.Unique, "connector/"+m.Workspace+"/"+r.Name)
	case *Repository:
		w.Unique = append(w.Unique, "repository/"+m.Workspace+"/"+r.Name)
	case *Token:
		w.Unique = append(w.Unique, TokenName(r.Hash))
	}
	if m.Creation != nil {
		w.Unique = append(w.Unique, CreationName(m.Creation.Key))
	}
	return w
}

// KeyName is the unique name of a repository key, by its public id.
func KeyName(key string) string { return "key/" + key }

// TokenName is the unique name of an admin token, by the SHA-256 of the token.
func TokenName(hash []byte) string { return "token/" + hex.EncodeToString(hash) }

// CreationName is the unique name that a record holds for Creation.Key.
func CreationName(key string) string { return "creation/" + key }
