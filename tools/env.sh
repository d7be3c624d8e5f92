# shellcheck shell=sh
# Sets a shell up for building tagledger:   . tools/env.sh
#
# For bash and zsh, from any directory; for other POSIX shells, from inside the checkout. Safe to source twice. All the work
# is done by tools/setup in a process of its own; this file only takes over what that prints, so that nothing here can end
# your shell or change its options. Returns 1, with the reason on standard error, when something is missing.

if [ -n "${BASH_SOURCE:-}" ]; then
  # shellcheck disable=SC3028,SC3054 # only bash gets here
  tagledger_root=${BASH_SOURCE[0]}
elif [ -n "${ZSH_VERSION:-}" ]; then
  # shellcheck disable=SC3006 # only zsh gets here; eval hides its syntax from other shells
  eval 'tagledger_root=${(%):-%x}'
else
  tagledger_root=./tools/env.sh
  while [ ! -e "$tagledger_root" ] && [ ${#tagledger_root} -lt 200 ]; do tagledger_root=../$tagledger_root; done
fi
tagledger_root=$(CDPATH='' cd -- "$(dirname -- "$tagledger_root")/.." 2>/dev/null && pwd) || tagledger_root=

if [ ! -x "$tagledger_root/tools/setup" ]; then
  echo "tagledger: can't tell where the checkout is; source tools/env.sh from inside it" >&2
  unset tagledger_root
  return 1
fi
if ! tagledger_exports=$("$tagledger_root/tools/setup" build); then
  unset tagledger_root tagledger_exports
  return 1
fi
eval "$tagledger_exports"
unset tagledger_root tagledger_exports
