package unseal

// Reserialise parses a keyring's plaintext and encodes it again.
func Reserialise(plain []byte) ([]byte, error) {
	k, err := parse(plain)
	if err != nil {
		return nil, err
	}
	return k.encode()
}
