package federation

// trustCodes are the diagnoses of trust: TW-2xxx.
var trustCodes = []CodeHelp{}
