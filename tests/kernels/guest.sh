#!/bin/sh
# The guest's first process, on a copy-on-write view of this machine's file tree. Finishes the view, runs /mnt/out/command
# and leaves what it said, and its status, where the host can see it.
export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /mnt
mount -t bpf -o mode=0700 bpf /sys/fs/bpf
mkdir -p /run/lock /run/netns /mnt/out
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 out /mnt/out

# Modules by name and alias, for us and for the kernel's own requests.
root=$(cat /mnt/out/root)
cp "$root"/usr/lib/x86_64-linux-gnu/libkmod.so.2* /lib/x86_64-linux-gnu/
cp "$root"/bin/kmod /sbin/modprobe
mkdir -p /lib/modules
ln -s "$root/lib/modules/$(uname -r)" "/lib/modules/$(uname -r)"
for module in tun veth vxlan geneve ip_gre sch_ingress cls_bpf udp_diag; do
    modprobe -q $module || echo "no module $module"
done
ip link set lo up

sh /mnt/out/command >/mnt/out/stdout 2>/mnt/out/stderr </dev/null
echo $? >/mnt/out/status
sync
echo o >/proc/sysrq-trigger
sleep 60
