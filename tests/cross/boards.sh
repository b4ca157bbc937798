# boards.sh - the memories of the boards without an operating system: where code, models and RAM are, in the words of
# bare.ld. Read by bash and by make. SPDX-License-Identifier: MIT
microbit="code_at=0 code_bytes=128K models_at=128K models_bytes=128K ram_at=0x20000000 ram_bytes=16K"
mps2="code_at=0 code_bytes=512K models_at=512K models_bytes=3584K ram_at=0x20000000 ram_bytes=4M"
stm32f4="code_at=0x08000000 code_bytes=256K models_at=0x08040000 models_bytes=768K ram_at=0x20000000 ram_bytes=128K"
an505="code_at=0x10000000 code_bytes=512K models_at=0x10080000 models_bytes=3584K ram_at=0x38000000 ram_bytes=4M"
an547="code_at=0x10000000 code_bytes=512K models_at=0x38000000 models_bytes=8M ram_at=0x30000000 ram_bytes=512K"
virt="code_at=0x80000000 code_bytes=1M models_at=0x80100000 models_bytes=4M ram_at=0x80800000 ram_bytes=4M"
