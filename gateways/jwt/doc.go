// Package jwt verifies the JSON Web Tokens that requests bring (RFC 7519, with the advice of RFC 8725), and keeps the keys of those who
// issue them.
//
// # What is promised
//
//   - A token is good for the one provider that asks for it: by its key, its algorithm, its issuer and its audience. The token chooses none
//     of them: an algorithm is bound to the type of the key, and a key that a token brings along or points to is not looked at.
//   - Keys are fetched only from hosts that the gateway's configuration lists, never through a proxy or a redirect, and at most 1 MiB.
//   - A rotation of keys fails no request: a key that is not known is looked for at once, though not more often than every 30 seconds.
//   - What cannot be verified is refused. Keys that could not be fetched again are good for 24 hours.
package jwt
