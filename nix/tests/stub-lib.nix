# As much of nixpkgs' lib as nix/ uses, written anew, so that the modules can be evaluated where there
# is no nixpkgs. It is stricter than the original where that costs nothing: an option needs a type
# and a description, and cannot be declared twice.
let
  inherit (builtins)
    attrNames
    concatMap
    concatStringsSep
    elem
    elemAt
    filter
    foldl'
    genList
    length
    listToAttrs
    match
    substring
    stringLength
    ;

  lib = import ./stub-definitions.nix { inherit lib; }
  // import ./stub-types.nix { inherit lib; }
  // import ./stub-modules.nix { inherit lib; }
  // {
    inherit (builtins)
      all
      any
      attrNames
      attrValues
      concatLists
      concatMap
      concatStringsSep
      elem
      filter
      head
      mapAttrs
      ;

    nameValuePair = name: value: { inherit name value; };
    unique = foldl' (seen: x: if elem x seen then seen else seen ++ [ x ]) [ ];
    showOption = concatStringsSep ".";
    filterAttrs =
      keep: set:
      listToAttrs (
        concatMap (name: if keep name set.${name} then [ (lib.nameValuePair name set.${name}) ] else [ ]) (
          attrNames set
        )
      );

    mkOption = declaration: { _type = "option"; } // declaration;
    mkEnableOption =
      what:
      lib.mkOption {
        type = lib.types.bool;
        default = false;
        description = "Whether to enable ${what}.";
      };
    mkMerge = contents: {
      _type = "merge";
      inherit contents;
    };
    mkDefault = lib.mkOverride 1000;
    mkForce = lib.mkOverride 50;
    literalExpression = text: text;

    genAttrs = names: f: listToAttrs (map (name: lib.nameValuePair name (f name)) names);
    mapAttrs' = f: set: listToAttrs (map (name: f name set.${name}) (attrNames set));
    mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
    imap0 = f: list: genList (i: f i (elemAt list i)) (length list);
    zipListsWith = f: a: b: genList (i: f (elemAt a i) (elemAt b i)) (length a);
    optional = condition: value: if condition then [ value ] else [ ];
    optionals = condition: values: if condition then values else [ ];
    optionalString = condition: text: if condition then text else "";
    hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
    hasInfix =
      infix: text:
      filter (i: substring i (stringLength infix) text == infix) (genList (i: i) (stringLength text)) != [ ];
    escapeURL =
      text:
      concatStringsSep "" (
        map (
          i:
          let
            char = substring i 1 text;
            codes = {
              ":" = "%3A";
              "/" = "%2F";
              "?" = "%3F";
              "=" = "%3D";
              "&" = "%26";
              "+" = "%2B";
            };
          in
          if match "[A-Za-z0-9._~-]" char != null then
            char
          else
            codes.${char} or (throw "the stub of escapeURL does not know `${char}'")
        ) (genList (i: i) (stringLength text))
      );

    importTOML = file: fromTOML (builtins.readFile file);
    fileset = {
      toSource = { root, fileset }: fileset;
      unions =
        files:
        filter (file: builtins.pathExists file || throw "package.nix names ${toString file}, which is not there") files;
    };
    licenses = {
      mit = "MIT";
      asl20 = "Apache-2.0";
    };
    platforms.linux = [ "linux" ];
  };
in
lib
