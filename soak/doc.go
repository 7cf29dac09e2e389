// Soak runs an appliance through months of bad luck in a quarter of an hour. Clients create, start,
// stop, restart, rename and destroy desktops over the HTTP API of a real `bureau serve`, several at a
// time, while serve, libvirtd and the guests' QEMU are killed with SIGKILL at random moments. After
// each round of kills, once serve and libvirtd answer again, package check reads what there is and
// holds it against what the clients were told.
//
// Everything happens in namespaces of the soak's own: a libvirtd of the system kind with its own
// folders, networks and processes, which no appliance or guest of this host can meet, and which end
// with the soak however that ends. The guests have no system: a boot sector is enough for them to be
// started, to shut down when asked to, or to be deaf.
//
// What is done, to which desktop and when, and what is killed when, follows from the seed alone. When
// exactly a kill meets an operation is the machine's affair, so the same seed may take several runs
// to find the same again.
//
// Nothing here but the test imports the appliance's packages.
package main
