#!/bin/sh
# boot.sh LAB: becomes a systemd of its own namespaces (see machine.py, which calls it under unshare), over an
# overlay of the machine's root that is in memory.  LAB/share is /mnt inside.
set -e
lab=$1
mount --make-rprivate /
mount -t tmpfs tidings "$lab/memory"
mkdir "$lab/memory/upper" "$lab/memory/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$lab/memory/upper,workdir=$lab/memory/work" "$lab/root"
cd "$lab/root"
mount --bind "$lab/share" mnt
mount -t proc proc proc
# systemd wants sysfs as it is and the unified cgroup tree, rooted at its own cgroup namespace.
mount --rbind /sys sys
umount -l sys/fs/cgroup
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 dev dev
for device in null zero full random urandom tty; do
  : >"dev/$device"
  mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/shm dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for stream in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${stream%%:*}" "dev/${stream#*:}"; done
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp
: >run/console
: >dev/console
mount --bind run/console dev/console
ip link set lo up
# What looks after hardware, logins and packages has nothing to do here.
mkdir -p run/systemd/system
for unit in systemd-udevd.service systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-udev-trigger.service \
  systemd-networkd.service systemd-resolved.service systemd-timesyncd.service systemd-logind.service \
  systemd-tmpfiles-clean.timer apt-daily.timer apt-daily-upgrade.timer getty.target; do
  ln -s /dev/null "run/systemd/system/$unit"
done
mkdir host
pivot_root . host
umount -l /host
rmdir /host
# As the kernel's first systemd finds it; without it no unit sees its credentials.
mount --make-rshared /
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=tidings \
  /lib/systemd/systemd --system --unit=basic.target --log-target=journal --show-status=0
