// Package mcp offers the API to AI agents as tools and resources of the Model Context Protocol: over
// HTTP beside the API ([Handler], at /mcp) and over standard input and output ([Run], for
// `bureau mcp`).
//
// Its tools are written once, against the API's own client. Over stdio that client speaks to an
// appliance with a URL and a key; at /mcp it calls the API within the process, in the name of whoever
// opened the session. So a tool can do nothing that its key could not do by itself, every limit,
// check and log line of the API holds for it, and nothing has to be said twice. What remains here is
// what models need: which tools to offer to which key, words that explain them, pictures in a size
// that models look at, progress while something takes its time, and sessions.
//
// The package knows neither the domain's Manager nor SQL nor libvirt.
package mcp
