# Types that both modules use.
{ lib }:
{
  # Safe as it is in units, in overlayfs options and, but for the slashes, in store URLs. A string
  # on purpose: a path literal would be copied to the store, which everybody can read.
  plainPath = lib.types.strMatching "/[A-Za-z0-9/._+-]*" // {
    description = "absolute path of letters, digits and ./_+-";
  };

  # A file that must not be in the store.
  isSecret = file: !lib.hasPrefix "${builtins.storeDir}/" (toString file);
}
