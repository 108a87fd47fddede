package translate

import (
	"strconv"

	luav3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/lua/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// refusal is an answer of a provider that the client does not get, but 502.
type refusal struct {
	name string
	when []*predicate
	with answer
}

// switched is an answer to what nobody asked (RFC 9110 §15.2.2).
func switched(with answer) refusal {
	return refusal{"switched", []*predicate{status("101")}, with}
}

// redirected is an answer with which a client would take its repository key to another host.
func redirected(with answer) refusal {
	return refusal{"redirected", []*predicate{matches(&matcherv3.HttpResponseHeaderMatchInput{HeaderName: ":status"}, regex("3.*"))}, with}
}

// unframed is an answer that ends with its connection: whether all of it came, nobody
// knows then (RFC 9112 §6.3), and Envoy passes it on as whole though the connection
// was reset (measured with Envoy 1.40).
func unframed(with answer) refusal {
	return refusal{"unframed", []*predicate{
		anyOf(status("200"), status("206")), not(is(&matcherv3.HttpRequestHeaderMatchInput{HeaderName: ":method"}, "HEAD")),
		not(has("content-length")), not(has("transfer-encoding")),
	}, with}
}

func (f form) asked() []*predicate {
	return []*predicate{matches(&matcherv3.HttpRequestHeaderMatchInput{HeaderName: ":path"}, regex(f.paths))}
}

// replace puts an error in the place of a provider's answer, of which nothing is left.
// Its body is read first, up to Envoy's buffer limit.
//
// Lua, since Envoy 1.40 has nothing else for it that it calls stable: the
// custom_response filter is work in progress, outside Envoy's threat model.
func replace(p *protocol, a answer, body func(code, message string) string) *luav3.Lua {
	return &luav3.Lua{DefaultSourceCode: inline(`function envoy_on_response(response)
  local headers = response:headers()
  local names = {}
  for name in pairs(headers) do
    if name:byte(1) ~= 58 then
      names[#names + 1] = name
    end
  end
  for _, name in ipairs(names) do
    headers:remove(name)
  end
  headers:replace(":status", "502")
  headers:replace("content-type", ` + strconv.Quote(p.contentType) + `)
  response:body(true):setBytes(` + strconv.Quote(body(a.code, a.message)) + `)
end
`)}
}
