# What the modules share: which granary.
{ lib, pkgs, ... }:
{
  options.services.granary.package = lib.mkOption {
    type = lib.types.package;
    default = pkgs.granary or (pkgs.callPackage ../package.nix { });
    defaultText = lib.literalExpression "pkgs.granary, or the one that comes with this module";
    description = "The granary to run.";
  };
}
