# shellcheck shell=bash
# A real disk image: the node's Debian root in a partition, as a file of 640 MiB, on a small file system that brings it to the node.

build_demo_image() {
  local stage=$VM_DIR/demo-stage mib=640
  rm -rf "$stage"
  mkdir -p "$stage"
  truncate -s ${mib}M "$stage/debian-13.raw"
  printf 'label: gpt\nstart=2048, size=%d\n' $(((mib - 2) * 2048)) | sfdisk -q "$stage/debian-13.raw"
  mke2fs -q -t ext4 -E offset=1048576 -d "$NODE_ROOT" "$stage/debian-13.raw" $((mib - 2))M
  truncate -s 1024M "$VM_DIR/demo-library.img.new"
  mke2fs -q -t ext4 -m 0 -d "$stage" "$VM_DIR/demo-library.img.new"
  rm -rf "$stage"
  mv "$VM_DIR/demo-library.img.new" "$VM_DIR/demo-library.img"
}
