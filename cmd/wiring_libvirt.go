//go:build cgo && libvirt_dlopen

package cmd

func addLibvirt(*Parts) {}
