# Makes an interactive zsh print its candidates instead of showing them. $1 is the script to load.
PROMPT=
autoload -Uz compinit
compinit -u -D
source "$1"

compadd() {
  # Calls that only ask what would match go through.
  if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then
    builtin compadd "$@"
    return
  fi
  local -a matches
  builtin compadd -A matches "$@"
  local match
  for match in $matches; do print -r -- $'\n'"CANDIDATE $match"; done
  builtin compadd "$@"
}

finish() {
  print $'\n'COMPLETE
  comppostfuncs=(finish)
}
comppostfuncs=(finish)
print LOADED
