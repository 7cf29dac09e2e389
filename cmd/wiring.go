package cmd

// parts assembles what this build has. The rooms that need libvirt come from the files beside this
// one, by build tag: without cgo there is no libvirt, and the rest works.
func parts() Parts {
	p := Parts{}
	addLibvirt(&p)
	return p
}
