package mcp

import (
	"io"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

// pipes are two ends of a connection, as standard input and output are.
func pipes() (near, far *sdk.IOTransport) {
	request, sent := io.Pipe()
	answer, answered := io.Pipe()
	return &sdk.IOTransport{Reader: answer, Writer: sent}, &sdk.IOTransport{Reader: request, Writer: answered}
}
